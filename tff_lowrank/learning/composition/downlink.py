"""Compresses the model sent to clients: a codec encodes its change since the last round.

The server keeps the version of the model that clients have. Each round it encodes the difference
between its own model and that version. Version plus decoded difference is the next version, so
what one message lost is part of the next difference. Clients train from the version. The
server's model is the sum of all updates, and the version follows it.

A client that took part in the last round receives one message. One that missed rounds receives
the missed messages too, or the whole version if that is shorter (the catch-up). A new client
receives the whole version. With `initial_from_seed` it draws the initial weights itself: it
receives their seed and all messages so far, if that is shorter.
"""

import collections
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import codecs
from tff_lowrank import ledger

NEVER_SEEN = -1
_SEED_BITS = 64


def check_downlink(codec: codecs.Codec | str) -> None:
  """Raises unless `codec` can be used for the downlink."""
  codec = codecs.resolve(codec, 'downlink')
  traits = codec.traits
  if traits.has_memory:
    raise ValueError(
      f"{codec} cannot be used for the downlink: clients that missed rounds lack the codec's "
      'memory. Error feedback is not needed: the next message contains what the last one lost.'
    )
  if traits.needs_model or traits.needs_last_update or traits.whole_client:
    raise ValueError(f'{codec} cannot be used for the downlink: it filters client updates.')
  if not traits.corrigible:
    raise ValueError(
      f'{codec} cannot be used for the downlink: its errors add to the next difference, which '
      'could grow without bound. Use a codec whose error is smaller than the value, such as '
      'top_k(0.1), float16, sign_sgd(scaled=True) or qsgd(stochastic=False).'
    )


def build_distribution(
  first_state: tff.Computation, send: tff.Computation
) -> tff.learning.templates.DistributionProcess:
  """Builds a distributor of its parts, unplaced.

  Args:
    first_state: `( -> S)`.
    send: `(<S, ModelWeights> -> <S, what clients get>)`.
  """
  state_type, weights_type = send.type_signature.parameter

  @tff.federated_computation
  def initialize():
    return tff.federated_eval(first_state, tff.SERVER)

  @tff.federated_computation(
    tff.FederatedType(state_type, tff.SERVER), tff.FederatedType(weights_type, tff.SERVER)
  )
  def next_fn(state, weights):
    state, sent = tff.federated_map(send, (state, weights))
    measurements = tff.federated_value((), tff.SERVER)
    return tff.templates.MeasuredProcessOutput(state, tff.federated_broadcast(sent), measurements)

  return tff.learning.templates.DistributionProcess(initialize, next_fn)


def build_distributor(
  initial_model_weights: tff.Computation, codec: codecs.Codec, seed: int
) -> tff.learning.templates.DistributionProcess:
  """Builds the distributor that sends the compressed model to the clients.

  State: `version` (trainable weights), `spent` (int64, the bits of all messages so far), `round`
  (int32). Clients receive `weights`, `price` (the cost of the round's message), `before` and
  `after` (the bits of all messages so far, without and with this one).
  """
  weights_type = initial_model_weights.type_signature.result

  @tff.tensorflow.computation
  def first_state():
    return collections.OrderedDict(
      version=initial_model_weights().trainable,
      spent=tf.constant(0, tf.int64),
      round=tf.constant(0, tf.int32),
    )

  state_type = first_state.type_signature.result

  @tff.tensorflow.computation(state_type, weights_type)
  def code(state, weights):
    version = state['version']
    difference = tf.nest.map_structure(tf.subtract, weights.trainable, version)
    # The uplink's codec folds other numbers into the same seed.
    seeds = tf.random.experimental.stateless_fold_in(tf.stack([seed, state['round']]), -1)
    message = codec.encode((), difference, seeds).message
    decoded = tf.nest.pack_sequence_as(difference, codec.decode((), message))
    version = tf.nest.map_structure(tf.add, version, decoded)
    price = codec.message_price(message)
    after = state['spent'] + ledger.total(price)
    new_state = collections.OrderedDict(version=version, spent=after, round=state['round'] + 1)
    sent = collections.OrderedDict(
      weights=tff.learning.models.ModelWeights(version, weights.non_trainable),
      price=price,
      before=state['spent'],
      after=after,
    )
    return new_state, sent

  return build_distribution(first_state, code)


def message_or_version(
  seen: tf.Tensor, sent: Any, version_price: ledger.Price, initial_from_seed: bool = False
) -> ledger.Price:
  """The cost, in bits, of bringing a client up to date.

  Args:
    seen: int64 [], the bits of all messages up to the last one that the client has, or
      `NEVER_SEEN`.
    sent: What the distributor sends.
    version_price: The cost of the whole version.
    initial_from_seed: Whether a new client knows the initial weights from a seed of 64 bits.
  """
  is_new = seen < 0
  missed = sent['before'] - tf.maximum(seen, 0) + tf.where(is_new, np.int64(_SEED_BITS), 0)
  follow = ledger.add(sent['price'], ledger.price(catch_up=missed))
  whole = ledger.price(catch_up=ledger.total(version_price))
  is_whole = ledger.total(follow) >= ledger.total(whole)
  if not initial_from_seed:
    is_whole |= is_new
  return ledger.select(is_whole, whole, follow)


def build_receive(sent_type: tff.Type, initial_from_seed: bool) -> tff.Computation:
  """`(<int64, sent> -> <int64, ModelWeights, price>)`: how a client receives the model.

  The number is the client state before and after: `seen` of `message_or_version`.
  """
  weights_spec = tff.types.type_to_tf_tensor_specs(sent_type.weights)

  @tff.tensorflow.computation(np.int64, sent_type)
  def receive(seen, sent):
    dense = ledger.dense_price(weights_spec.trainable)
    version = message_or_version(seen, sent, dense, initial_from_seed)
    price = ledger.add(version, ledger.dense_price(weights_spec.non_trainable))
    return sent['after'], sent['weights'], price

  return receive


@tff.tensorflow.computation
def never_seen():
  """The state of a client that has not received anything yet."""
  return tf.constant(NEVER_SEEN, tf.int64)
