"""Personalised federated learning: a part of the model stays at each client.

Methods differ in which part is personal:
  pFedPara     `layers.personal_mask(model)`: the factors of W2 in W1 * (W2 + 1)
  FedPer       `client_work.last_layer_mask(model)`: the last layer
  local only   everything: `build_local_only`
  FedAvg       nothing
"""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import personal_weights
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.learning.composition import finalizer as finalizer_lib
from tff_lowrank.learning.composition import process
from tff_lowrank.learning.composition import work as work_lib


def _initial_memory(personal: tuple[Any, ...]) -> tff.Computation:
  """`( -> C)`; nothing if there are no personal weights."""

  @tff.tensorflow.computation
  def initialize_client():
    if not personal:
      return ()
    return collections.OrderedDict(
      seen=tf.constant(False), personal=tuple(tf.constant(w) for w in personal)
    )

  return initialize_client


def _build_work(
  training: training_lib.LocalTraining,
  split: personal_weights.Split,
  initial: tff.learning.models.ModelWeights,
  shared_type: tff.Type,
) -> work_lib.ClientStatefulWork:
  """Joint training of shared and personal weights; the update has only the shared ones."""
  shared_spec = tff.types.type_to_tf_tensor_specs(shared_type)
  initialize_client = _initial_memory(split.personal_part(initial.trainable))

  def work(training, memory, shared, dataset):
    price = ledger.dense_price(shared_spec)
    own = ()
    if memory:
      own = memory['personal']
      seed = ledger.price(catch_up=ledger.SEED_BITS)
      price = ledger.add(price, ledger.select(memory['seen'], ledger.price(), seed))
    start = split.merge(shared.trainable, own, initial.trainable)
    weights = tff.learning.models.ModelWeights(start, shared.non_trainable)
    trained = training.train(weights, None, dataset)
    learnt = ()  # type: Any
    excluded = ()  # type: Any
    if memory:
      seen = tf.constant(True)
      learnt = collections.OrderedDict(seen=seen, personal=split.personal_part(trained.trainable))
      excluded = collections.OrderedDict(seen=seen, personal=own)
    result = tff.learning.templates.ClientResult(
      split.shared_part(trained.result.update), trained.result.update_weight
    )
    return work_lib.Worked(learnt, result, price, trained.metrics, excluded)

  return work_lib.build_work(
    training, initialize_client, shared_type, work, lambda shared: shared.trainable
  )


def build_personal_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  personal: Sequence[bool],
  codec: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> process.ClientStatefulLearningProcess:
  """Builds FedAvg of the shared weights, in which each client keeps its personal weights.

  This is pFedPara (Hyeon-Woo et al., ICLR 2022, arXiv 2108.06098, Algorithm 2) and FedPer; see
  the module. In a round a client receives the shared weights, joins them with its personal ones,
  trains all of them together, and sends the update of the shared ones. The server's state holds
  no personal weights.

  A new client starts from the initial personal weights. They follow from the seed of the run, so
  its first downlink has the 64 bits of the seed (as `catch_up`) and no personal weights. A client
  that is excluded, because it has no examples or its update is not finite, keeps its personal
  weights unchanged. Client state: `work/seen` (bool), `work/personal` (the weights), and
  `aggregator` (the codec's memory).

  The process's `get_model_weights` gives the shared weights with the initial personal ones: the
  model of a new client. `get_client_model_weights` gives a client's own model.

  Args:
    model_fn: As in `process.build_process`.
    client_optimizer_fn: Runs the local steps on all weights.
    server_optimizer_fn: Applies the mean update of the shared weights as the gradient; SGD with
      rate 1 if None.
    personal: For each trainable weight, in order, whether it is personal. If none is, the
      process is exactly `build_compressed_fed_avg`; all of them may be.
    codec: Encodes the updates of the shared weights; `codecs.Identity()` if None.
    seed: Seeds, together with the round number, all randomness in the codec.
    client_weighting: As in `process.build_process`.
    metrics_aggregator: As in `process.build_process`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If `personal` does not have one bool for each trainable weight.
  """
  server_optimizer = process.checked_server_optimizer(server_optimizer_fn)
  training = training_lib.build_training(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  initial = personal_weights.initial_values(model_fn)
  split = personal_weights.build_split(personal, len(tf.nest.flatten(initial.trainable)))
  own = split.personal_part(initial.trainable)

  @tff.tensorflow.computation
  def initial_shared():
    shared = tuple(tf.constant(w) for w in split.shared_part(initial.trainable))
    non_trainable = tf.nest.map_structure(tf.constant, initial.non_trainable)
    return tff.learning.models.ModelWeights(shared, non_trainable)

  shared_type = initial_shared.type_signature.result
  codec = codecs.Identity() if codec is None else codecs.resolve(codec)
  if all(split.personal):
    codec = codecs.Identity()  # There is nothing to encode.
  aggregator = aggregators.ClientStatefulCodedMeanFactory(codec, seed=seed).create(
    shared_type.trainable, tff.TensorType(tf.float32.as_numpy_dtype)
  )
  finalizer = finalizer_lib.build_finalizer(server_optimizer, shared_type)
  work = _build_work(training, split, initial, shared_type)

  def merged(shared, own):
    trainable = split.merge(shared.trainable, own, initial.trainable)
    return tff.learning.models.ModelWeights(trainable, shared.non_trainable)

  memory_type = work.initialize_client.type_signature.result
  finalizer_state_type = finalizer.initialize.type_signature.result.member
  personalize = None
  if own:

    @tff.tensorflow.computation(finalizer_state_type, memory_type, shared_type)
    def personalize(state, memory, shared):
      del state  # It has nothing of the client's.
      return merged(shared, memory['personal'])

  composed = process.compose(initial_shared, work, aggregator, finalizer, personalize=personalize)
  state_type = composed.initialize.type_signature.result.member

  @tff.tensorflow.computation(state_type)
  def get_model_weights(state):
    return merged(state.global_model_weights, tuple(tf.constant(w) for w in own))

  @tff.tensorflow.computation(state_type, training.weights_type)
  def set_model_weights(state, model_weights):
    shared = split.shared_part(model_weights.trainable)
    return state._replace(
      global_model_weights=tff.learning.models.ModelWeights(shared, model_weights.non_trainable)
    )

  return process.ClientStatefulLearningProcess(
    composed.initialize,
    composed.initialize_client,
    composed.next,
    get_model_weights,
    set_model_weights,
    composed.get_client_model_weights,
  )


def build_local_only(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  **settings: Any,
) -> process.ClientStatefulLearningProcess:
  """Builds training of each client on its own: all weights are personal.

  Only the seed of the initial weights is sent. The `settings` (`client_weighting`,
  `metrics_aggregator`) are those of `build_personal_fed_avg`.
  """
  num_weights = len(tf.nest.flatten(personal_weights.initial_values(model_fn).trainable))
  return build_personal_fed_avg(
    model_fn, client_optimizer_fn, personal=[True] * num_weights, **settings
  )
