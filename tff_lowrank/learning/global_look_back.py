"""LBGM at the last global updates: a distributor that keeps them, and what they cost clients.

The vectors of round t are the changes between the models of rounds t - r to t, as many as there
are. Each is a difference of two models, in the model's own precision, so that a client which has
the models has the vectors to the bit.
"""

import collections
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import global_look_back
from tff_lowrank.client_work import local_sgd
from tff_lowrank.client_work import schedule as schedule_lib
from tff_lowrank.learning.composition import downlink
from tff_lowrank.learning.composition import finalizer as finalizer_lib
from tff_lowrank.learning.composition import process
from tff_lowrank.learning.composition import work as work_lib

NEVER_SEEN = -1


def build_distributor(
  initial_model_weights: tff.Computation, vectors: int
) -> tff.learning.templates.DistributionProcess:
  """Builds what sends the model down, and with it what clients know from earlier models.

  State: `model` (the last trainable weights that were sent), `known` (see
  `aggregators.global_look_back.Updates`), `round` (int32). What clients get: `weights`,
  `known`, `round`.
  """
  weights_type = initial_model_weights.type_signature.result

  @tff.tensorflow.computation
  def first_state():
    model = initial_model_weights().trainable
    nothing = tf.nest.map_structure(tf.zeros_like, model)
    known = global_look_back.Updates([nothing] * vectors, tf.zeros([vectors], bool))
    return collections.OrderedDict(model=model, known=known, round=tf.constant(0))

  state_type = first_state.type_signature.result

  @tff.tensorflow.computation(state_type, weights_type)
  def send(state, weights):
    known = state['known']
    update = tf.nest.map_structure(tf.subtract, state['model'], weights.trainable)
    pushed = global_look_back.Updates(
      [*known.updates, update][1:], tf.concat([known.exist[1:], [True]], 0)
    )
    known = structures.select(state['round'] > 0, pushed, known)
    sent = collections.OrderedDict(weights=weights, known=known, round=state['round'])
    new_state = collections.OrderedDict(
      model=weights.trainable, known=known, round=state['round'] + 1
    )
    return new_state, sent

  return downlink.build_distribution(first_state, send)


def num_missing(seen: tf.Tensor, round_num: tf.Tensor, vectors: int) -> tf.Tensor:
  """int64 []: how many earlier models a client must be sent besides that of the round.

  seen: int32 [], the last round whose model it has, with the `vectors` before that; or
    `NEVER_SEEN`.
  """
  wanted = tf.minimum(round_num, vectors)
  return tf.cast(tf.clip_by_value(round_num - seen - 1, 0, wanted), tf.int64)


def _knowing_updates(
  work: work_lib.ClientStatefulWork, sent_type: tff.Type, vectors: int
) -> work_lib.ClientStatefulWork:
  """`work`, of clients that remember nothing, on what the distributor sends."""
  weights_spec = tff.types.type_to_tf_tensor_specs(sent_type['weights'])

  @tff.tensorflow.computation
  def never_seen():
    return tf.constant(NEVER_SEEN)

  @tff.tensorflow.computation(np.int32, sent_type)
  def receive(seen, sent):
    model_bits = ledger.total(ledger.dense_price(weights_spec.trainable))
    catch_up = ledger.price(catch_up=num_missing(seen, sent['round'], vectors) * model_bits)
    price = ledger.add(ledger.dense_price(weights_spec), catch_up)
    return sent['round'], sent['weights'], price

  @tff.tensorflow.computation(sent_type)
  def received(sent):
    return sent['known']

  return work_lib.build_receiving_work(work, never_seen, receive, received)


def build_global_lbgm_fed_avg(
  model_fn: local_sgd.ModelFn,
  client_optimizer_fn: schedule_lib.ClientOptimizer,
  server_optimizer_fn: tff.learning.optimizers.Optimizer | None = None,
  *,
  threshold: float = 0.2,
  granularity: str = 'tensor',
  vectors: int = 1,
  predictive: bool = False,
  inner: codecs.Codec | str | None = None,
  seed: int = 0,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Any = None,
) -> process.ClientStatefulLearningProcess:
  """Builds LBGM whose clients look back at the last global updates; not in the paper.

  A client that was there in the last `vectors` + 1 rounds has the models whose differences these
  are, so that they cost it nothing. One that was away is sent the models that it missed, `catch_up`
  in the ledger, up to `vectors` of them. A client keeps `vectors` models; here they are kept once
  for all, and a client's memory is the last round it was there, and what the inner codec remembers.

  The arguments are those of `build_lbgm_fed_avg`, without `downlink`.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If an argument has an impossible value.
  """
  recycled = codecs.Identity() if inner is None else codecs.resolve(inner)
  codec = codecs.LookBack(recycled, threshold, granularity, vectors, predictive)
  factory = aggregators.GlobalLookBackFactory(codec, seed=seed)
  initial_model_weights = process.build_initial_model_weights(model_fn)
  weights_type = initial_model_weights.type_signature.result
  aggregator = factory.create(weights_type.trainable, tff.TensorType(np.float32))
  finalizer = finalizer_lib.build_finalizer(
    process.checked_server_optimizer(server_optimizer_fn), weights_type
  )
  distributor = build_distributor(initial_model_weights, vectors)
  work = process.build_memoryless_work(
    model_fn, client_optimizer_fn, client_weighting, metrics_aggregator
  )
  work = _knowing_updates(work, distributor.next.type_signature.result.result.member, vectors)
  return process.compose(
    initial_model_weights, work, aggregator, finalizer, distributor=distributor
  )
