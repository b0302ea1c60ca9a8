"""SCAFFOLD: FedAvg whose clients correct their gradients by control variates."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.client_work import corrections
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.learning.composition import process
from tff_lowrank.learning.composition import server_correction
from tff_lowrank.learning.composition import work as work_lib


class _Broadcast(NamedTuple):
  """What SCAFFOLD's server broadcasts: the model and the server's control variate c."""

  weights: Any
  control: Any


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
  server_correction.check_counts_clients('SCAFFOLD', codec, num_clients)
  factory = aggregators.ClientStatefulCodedMeanFactory(
    codecs.Identity() if codec is None else codec, seed=seed
  )
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  corrections.check_plain_sgd(client_optimizer_fn)
  training = training_lib.build_training(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  weights_type = training.weights_type
  initialize_client = work_lib.build_zero_memory('control', weights_type)
  control_type = initialize_client.type_signature.result['control']
  value_type = tff.to_type(corrections.ControlledUpdate(control_type, control_type))
  broadcast_type = tff.to_type(_Broadcast(weights_type, control_type))
  broadcast_spec = tff.types.type_to_tf_tensor_specs(broadcast_type)

  def work(training, memory, broadcast, dataset):
    done = corrections.train_controlled(
      training, memory['control'], broadcast.weights, broadcast.control, dataset
    )
    price = ledger.dense_price(broadcast_spec)
    learnt = collections.OrderedDict(control=done.memory)
    return work_lib.Worked(learnt, done.result, price, done.metrics, memory)

  def received(broadcast):
    trainable = tuple(tf.nest.flatten(broadcast.weights.trainable))
    return corrections.ControlledUpdate(trainable, broadcast.control)

  def advance(control, mean, share):
    control = tf.nest.map_structure(
      lambda c, d: c + structures.scale(share, d), control, mean.control
    )
    return control, mean.model

  finalizer = server_correction.build_finalizer(
    server_optimizer, weights_type, value_type, num_clients, advance
  )

  @tff.tensorflow.computation(finalizer.initialize.type_signature.result.member, weights_type)
  def outgoing(state, weights):
    return _Broadcast(weights, state['correction'])

  return process.compose(
    process.build_initial_model_weights(model_fn),
    work_lib.build_work(training, initialize_client, broadcast_type, work, received),
    server_correction.counting(factory.create(value_type, tff.TensorType(np.float32))),
    finalizer,
    outgoing,
  )
