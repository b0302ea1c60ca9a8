"""The measured cases: the workloads of `round_time`, three methods on a CNN, and a VGG16.

A, B, C, D   as in `benchmarks.round_time`
cnn          the CNN of LBGM's paper; 10 clients with 100 examples each, in batches of 20
lbgm         LBGM on it, with look-back vectors from the previous round
apf          APF on it, in its third round
fedpara      FedPara on it, gamma 0.3
vgg          VGG16 with a quarter of the channels; 8 clients with 32 examples, in batches of 16
"""

from collections.abc import Callable, Sequence
import dataclasses
import inspect
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from benchmarks import workloads
from tff_lowrank import learning
from tff_lowrank import models

NAMES = ('A', 'B', 'C', 'D', 'cnn', 'lbgm', 'apf', 'fedpara', 'vgg')
_RATE = 0.05
_GAMMA = 0.3


@dataclasses.dataclass(frozen=True)
class Case:
  """A round to run.

  process: a process with `next`.
  arguments: the arguments of `process.next`, in a later round if the first one is different.
  weights: name, shape and standard deviation of each trainable tensor.
  shape: number of clients, steps per client, batch size, then the shape of an example.
  """

  process: Any
  arguments: list[Any]
  weights: list[dict[str, Any]]
  shape: tuple[int, ...]


def build(name: str) -> Case:
  """Creates a case in the current context, running the rounds before the measured one."""
  tf.keras.utils.set_random_seed(0)
  if name in 'ABCD':
    return _round_time(name)
  family = dict(family='fedpara', gamma=_GAMMA) if name == 'fedpara' else {}
  if name == 'vgg':
    keras, clients, examples, batch = models.build_vgg16(width_multiplier=0.25), 8, 32, 16
  else:
    keras, clients, examples, batch = models.build_cnn(**family), 10, 100, 20
  shape = keras.input_shape[1:]
  rng = np.random.default_rng(0)
  data = [
    tf.data.Dataset.from_tensor_slices(
      dict(
        x=rng.random((examples, *shape), dtype=np.float32),
        y=rng.integers(0, 10, examples).astype(np.int32),
      )
    ).batch(batch)
    for _ in range(clients)
  ]
  model = tff.learning.models.functional_model_from_keras(
    keras,
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    data[0].element_spec,
  )
  process = _builders()[name](model, tff.learning.optimizers.build_sgdm(_RATE))
  state = process.initialize()
  if hasattr(process, 'initialize_client'):
    memory = [process.initialize_client() for _ in range(clients)]
    for _ in range(2 if name == 'apf' else 1):
      output = process.next(state, memory, data)
      state, memory = output.state, output.client_states
    arguments = [state, memory, data]
  else:
    arguments = [state, data]
  shape = (clients, examples // batch, batch, *shape)
  return Case(process, arguments, _weights(keras), shape)


def _builders() -> dict[str, Callable[..., Any]]:
  fed_avg = lambda model, sgd: tff.learning.algorithms.build_weighted_fed_avg(model, sgd)  # noqa: E731
  return dict(
    cnn=fed_avg,
    fedpara=fed_avg,
    vgg=fed_avg,
    lbgm=lambda model, sgd: learning.build_lbgm_fed_avg(model, sgd, threshold=0.4),
    apf=learning.build_apf_fed_avg,
  )


def _round_time(name: str) -> Case:
  made = inspect.getclosurevars(workloads.tff_round(name)).nonlocals
  clients, examples, batch = workloads.settings(name)
  shape = dict(A=(28, 28, 1), D=(20,)).get(name, (784,))
  return Case(
    made['process'],
    [made['state'], made['datasets']],
    _weights(workloads.keras_model(name)),
    (clients, examples // batch, batch, *shape),
  )


def _weights(keras: tf.keras.Model) -> list[dict[str, Any]]:
  return [
    dict(name=v.name, shape=v.shape.as_list(), stddev=float(np.std(v.numpy())))
    for v in keras.trainable_variables
  ]


def data_shapes(case: Case) -> Sequence[Sequence[int]]:
  """The last sizes of the shapes of program arguments with clients' data."""
  _, _, batch, *example = case.shape
  return [[batch, *example], [batch]]
