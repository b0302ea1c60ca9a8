"""Local training whose gradients are corrected, against the drift of clients from each other.

Each takes steps on the client's loss plus `<offset, w> + strength / 2 |w - w0|^2`, where w0 is the
model received:
                strength   offset
  FedProx       mu         0            Li et al., MLSys 2020, arXiv 1812.06127
  SCAFFOLD      0          c - c_k      Karimireddy et al., ICML 2020, arXiv 1910.06378
  FedDyn        alpha      -g_k         Acar et al., ICLR 2021, arXiv 2111.04263
with c the server's control variate and c_k, g_k what the client remembers. On factorised layers
distances are those of factors, not of the kernels that they compose.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import structures
from tff_lowrank.client_work import frozen
from tff_lowrank.client_work import schedule as schedule_lib


class Regularized(NamedTuple):
  """What a client has after corrected training.

  memory: what it remembers, one tensor for each trainable weight; as it was for a client that
    is left out.
  result: `tff.learning.templates.ClientResult`.
  metrics: unfinalized.
  """

  memory: Any
  result: Any
  metrics: Any


class ControlledUpdate(NamedTuple):
  """What a client of SCAFFOLD sends.

  model: the update, one tensor for each trainable weight.
  control: the change of its control variate, likewise.
  """

  model: Any
  control: Any


def check_plain_sgd(client_optimizer: schedule_lib.ClientOptimizer) -> None:
  """Raises unless it is SGD without momentum, at a rate above 0 or at rates by client.

  Raises:
    TypeError: If it is no client optimizer.
    ValueError: If it is another one, or its rate is 0.
  """
  optimizer, _, by_client = schedule_lib.parts(client_optimizer)
  state = optimizer.initialize(tf.TensorSpec((), tf.float32))
  name = tff.learning.optimizers.LEARNING_RATE_KEY
  if not isinstance(state, Mapping) or set(state) != {name}:
    raise ValueError(
      'SCAFFOLD corrects steps of SGD without momentum, whose size is the learning rate times the '
      f'gradient; found {type(optimizer).__name__} as `client_optimizer_fn`.'
    )
  if not by_client and not float(state[name]) > 0:
    raise ValueError(f"The clients' learning rate must be above 0, found {state[name]}.")


def _accept(
  result: tff.learning.templates.ClientResult, update: Any, old: Any, new: Any
) -> tuple[Any, tff.learning.templates.ClientResult]:
  """The memory, and the result with `update`: the client is left out if `new` is not finite."""
  finite = structures.all_finite(new)
  accepted = finite & (result.update_weight > 0)
  weight = tf.where(finite, result.update_weight, 0.0)
  return (
    structures.select(accepted, new, old),
    tff.learning.templates.ClientResult(update, weight),
  )


def proximal(training: frozen.LocalTraining, mu: float) -> frozen.LocalTraining:
  """FedProx: the training on the loss plus `mu / 2 |w - w0|^2`."""
  train = functools.partial(training.train, correction=frozen.Correction(strength=mu))
  return training._replace(train=train)


def train_controlled(
  training: frozen.LocalTraining,
  own: Any,
  weights: tff.learning.models.ModelWeights,
  control: Any,
  dataset: tf.data.Dataset,
) -> Regularized:
  """SCAFFOLD: SGD with gradients plus `c - c_k`, then the client's control by option II.

  It becomes `c_k - c + (w0 - w) / (K learning_rate)` after K steps to w: the mean of the
  gradients on the way.

  Args:
    training: By SGD without momentum, with the same rate in all steps of a round.
    own: c_k, one tensor for each trainable weight.
    weights: The model received.
    control: c, as `own`.
    dataset: The client's batches.

  Returns:
    The memory is the new c_k, the update a `ControlledUpdate`.
  """
  offset = tf.nest.map_structure(tf.subtract, control, own)
  trained = training.train(weights, None, dataset, frozen.Correction(offset=offset))
  update = tuple(tf.nest.flatten(trained.result.update))
  rate = tf.cast(trained.learning_rate, tf.float64)
  moved = rate * tf.cast(trained.num_steps, tf.float64)
  # At a rate of 0 nothing moved, and nothing was learnt of the gradients.

  def renewed(c, o, u):
    wide = structures.widened(u)
    mean = tf.math.divide_no_nan(wide, tf.cast(moved, wide.dtype))
    return structures.where(moved > 0, tf.cast(mean, u.dtype) - o, c)

  new = tf.nest.map_structure(renewed, own, offset, update)
  kept, result = _accept(trained.result, update, own, new)
  change = tf.nest.map_structure(tf.subtract, kept, own)
  result = result._replace(update=ControlledUpdate(update, change))
  return Regularized(kept, result, trained.metrics)


def train_dynamic(
  training: frozen.LocalTraining,
  alpha: float,
  own: Any,
  weights: tff.learning.models.ModelWeights,
  dataset: tf.data.Dataset,
) -> Regularized:
  """FedDyn: SGD on the loss minus `<g_k, w>` plus `alpha / 2 |w - w0|^2`.

  Then g_k becomes `g_k - alpha (w - w0)`, the gradient of the loss where such training settles.

  Args:
    training: By any optimizer.
    alpha: At least 0.
    own: g_k, one tensor for each trainable weight.
    weights: The model received.
    dataset: The client's batches.

  Returns:
    The memory is the new g_k.
  """
  offset = tf.nest.map_structure(tf.negative, own)
  trained = training.train(weights, None, dataset, frozen.Correction(alpha, offset))
  update = tuple(tf.nest.flatten(trained.result.update))
  new = tf.nest.map_structure(lambda g, u: g + alpha * u, own, update)
  kept, result = _accept(trained.result, trained.result.update, own, new)
  return Regularized(kept, result, trained.metrics)
