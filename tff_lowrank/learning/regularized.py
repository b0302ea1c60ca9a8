"""FedProx, SCAFFOLD and FedDyn: FedAvg with corrected gradients at the clients.

FedAdam is any of these, or FedAvg, with `tff.learning.optimizers.build_adam` as the server's
optimizer. Layers may be factorised, and any codec can compress the updates, look-back included.
"""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.client_work import frozen as frozen_work
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import regularized as regularized_work
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.learning import corrected
from tff_lowrank.learning import process
from tff_lowrank.learning import work as work_lib


class _Broadcast(NamedTuple):
  """What SCAFFOLD's server broadcasts: the model and the server's control variate c."""

  weights: Any
  control: Any


def _check_finite(name: str, value: Any) -> None:
  """Raises unless `value` is a finite number of at least 0."""
  checks.check_in_range(name, value, 0, np.finfo(np.float32).max)


def _build_aggregator(
  codec: codecs.Codec | str | None, seed: int, value_type: tff.Type
) -> aggregators.ClientStatefulAggregationProcess:
  factory = aggregators.ClientStatefulCodedMeanFactory(
    codecs.Identity() if codec is None else codec, seed=seed
  )
  return factory.create(value_type, tff.TensorType(np.float32))


def _initial_memory(name: str, weights_type: tff.Type) -> tff.Computation:
  """`( -> C)`: zeros for each trainable weight, under the key `name`."""
  spec = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(weights_type.trainable))

  @tff.tensorflow.computation
  def initialize_client():
    return collections.OrderedDict([(name, tuple(structures.zeros(spec)))])

  return initialize_client


def _check_counts_clients(method: str, codec: codecs.Codec | str | None, num_clients: int) -> None:
  checks.check_at_least('num_clients', num_clients, 1)
  parts = () if codec is None else codecs.resolve(codec).parts
  if any(part.traits.whole_client for part in parts):
    raise ValueError(
      f'{codec} does not work with {method}: it excludes whole clients from the mean, and the '
      'server must know how many clients are in it.'
    )


def build_fed_prox(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  mu: float = 0.1,
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> process.ClientStatefulLearningProcess:
  """Builds FedProx (Li et al., MLSys 2020, https://arxiv.org/abs/1812.06127).

  Clients minimise their loss plus `mu / 2 |w - w0|^2`, with w0 the model that they received.
  The messages are those of FedAvg.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps.
    server_optimizer_fn: Applies the mean of the decoded updates as the gradient.
    mu: At least 0; 0 is exactly FedAvg.
    codec: Encodes the updates, a codec or its text; `codecs.Identity()` if None.
    seed: Seeds, together with the round number, all randomness in the codec.
    client_weighting: As in `process.build_process`.
    metrics_aggregator: As in `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
  """
  _check_finite('mu', mu)
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  training = regularized_work.proximal(
    frozen_work.build_training(model_fn, client_optimizer_fn, client_weighting, metrics_aggregator),
    mu,
  )
  weights_type = training.weights_type

  def train(training, weights, dataset):
    return training.train(weights, None, dataset)

  return process.compose(
    process.build_initial_model_weights(model_fn),
    work_lib.build_memoryless_work(training, train),
    _build_aggregator(codec, seed, weights_type.trainable),
    tff.learning.templates.build_apply_optimizer_finalizer(server_optimizer, weights_type),
  )


def build_scaffold(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  num_clients: int,
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> process.ClientStatefulLearningProcess:
  """Builds SCAFFOLD, option II (Karimireddy et al., ICML 2020, arXiv 1910.06378, Algorithm 1).

  Clients add `c - c_k` to their gradients. The client state c_k becomes the mean of the client's
  gradients in its last round; the server's c is the mean of all c_k. Both start at 0, so the
  first round equals FedAvg's. Uplink and downlink are twice as large: the server sends the model
  and c, a client sends its update and the change of c_k.

  The codec encodes the update and the change of c_k as one value. If the codec is lossy, c is no
  longer exactly the mean of the c_k. Weighting by examples (see `client_weighting`), which is not
  in the paper, applies to both means.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: SGD without momentum.
    server_optimizer_fn: Applies the mean of the decoded updates as the gradient; in the paper
      SGD with the rate eta_g.
    num_clients: N, the number of all clients, sampled or not.
    codec: As in `build_fed_prox`, but not one that excludes whole clients from a round.
    seed: As in `build_fed_prox`.
    client_weighting: As in `process.build_process`.
    metrics_aggregator: As in `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
  """
  _check_counts_clients('SCAFFOLD', codec, num_clients)
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  regularized_work.check_plain_sgd(client_optimizer_fn)
  training = frozen_work.build_training(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  weights_type = training.weights_type
  initialize_client = _initial_memory('control', weights_type)
  control_type = initialize_client.type_signature.result['control']
  value_type = tff.to_type(regularized_work.ControlledUpdate(control_type, control_type))
  broadcast_type = tff.to_type(_Broadcast(weights_type, control_type))
  broadcast_spec = tff.types.type_to_tf_tensor_specs(broadcast_type)

  def work(training, memory, broadcast, dataset):
    done = regularized_work.train_controlled(
      training, memory['control'], broadcast.weights, broadcast.control, dataset
    )
    price = ledger.dense_price(broadcast_spec)
    learnt = collections.OrderedDict(control=done.memory)
    return work_lib.Worked(learnt, done.result, price, done.metrics, memory)

  def received(broadcast):
    trainable = tuple(tf.nest.flatten(broadcast.weights.trainable))
    return regularized_work.ControlledUpdate(trainable, broadcast.control)

  def advance(control, mean, share):
    control = tf.nest.map_structure(
      lambda c, d: c + structures.scale(share, d), control, mean.control
    )
    return control, mean.model

  finalizer = corrected.build_finalizer(
    server_optimizer, weights_type, value_type, num_clients, advance
  )

  @tff.tensorflow.computation(finalizer.initialize.type_signature.result.member, weights_type)
  def outgoing(state, weights):
    return _Broadcast(weights, state['correction'])

  return process.compose(
    process.build_initial_model_weights(model_fn),
    work_lib.build_work(training, initialize_client, broadcast_type, work, received),
    corrected.counting(_build_aggregator(codec, seed, value_type)),
    finalizer,
    outgoing,
  )


def build_fed_dyn(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  num_clients: int,
  alpha: float = 0.1,
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> process.ClientStatefulLearningProcess:
  """Builds FedDyn (Acar et al., ICLR 2021, https://arxiv.org/abs/2111.04263, Algorithm 1).

  Clients minimise their loss minus `<g_k, w>` plus `alpha / 2 |w - w0|^2`. After training, the
  client state g_k becomes `g_k - alpha (w - w0)`. The server keeps `h / alpha`. Each round it
  adds to it the mean update times the fraction of all clients that are in the mean, and subtracts
  the sum from the mean model: with SGD of rate 1 the model is `mean(w) - h / alpha`. The messages
  are those of FedAvg.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps.
    server_optimizer_fn: Applies the mean of the decoded updates plus `h / alpha` as the gradient;
      SGD with rate 1 if None, as in the paper.
    num_clients: m, the number of all clients, sampled or not.
    alpha: At least 0; 0 corrects nothing and is exactly FedAvg. (This is not the limit for small
      alpha: `h / alpha` does not go to 0 with alpha.)
    codec: As in `build_fed_prox`, but not one that excludes whole clients from a round.
    seed: As in `build_fed_prox`.
    client_weighting: As in `process.build_process`; uniform in the paper.
    metrics_aggregator: As in `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the value of an argument is invalid.
  """
  _check_finite('alpha', alpha)
  _check_counts_clients('FedDyn', codec, num_clients)
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  training = frozen_work.build_training(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  weights_type = training.weights_type
  spec = tff.types.type_to_tf_tensor_specs(weights_type)
  initialize_client = _initial_memory('gradient', weights_type)

  def work(training, memory, weights, dataset):
    done = regularized_work.train_dynamic(training, alpha, memory['gradient'], weights, dataset)
    learnt = collections.OrderedDict(gradient=done.memory)
    return work_lib.Worked(learnt, done.result, ledger.dense_price(spec), done.metrics, memory)

  def advance(correction, mean, share):
    mean = tuple(tf.nest.flatten(mean))
    if not alpha:
      return correction, mean
    correction = tf.nest.map_structure(
      lambda h, u: h + structures.scale(share, u), correction, mean
    )
    return correction, tf.nest.map_structure(tf.add, mean, correction)

  return process.compose(
    process.build_initial_model_weights(model_fn),
    work_lib.build_work(
      training, initialize_client, weights_type, work, lambda weights: weights.trainable
    ),
    corrected.counting(_build_aggregator(codec, seed, weights_type.trainable)),
    corrected.build_finalizer(
      server_optimizer, weights_type, weights_type.trainable, num_clients, advance
    ),
  )
