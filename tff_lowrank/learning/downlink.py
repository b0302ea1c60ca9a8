"""The model sent down through a codec, as the difference from the version sent before.

The server keeps the version that clients have. Each round it codes the difference of its model
from that version, and the decoded difference makes the next version, so that what a message
leaves out is in the next difference. Clients train from the version; the server's model is
the sum of all updates, which the version follows.

A client that was there in the last round is sent one message. One that was away is sent the
messages that it missed as well, or the whole version where that is shorter; one that is new is
sent the whole version.
"""

import collections
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import codecs
from tff_lowrank import ledger

NEVER_SEEN = -1


def check_downlink(codec: codecs.Codec | str) -> None:
  """Raises unless `codec` can code the downlink."""
  codec = codecs.resolve(codec, 'downlink')
  traits = codec.traits
  if traits.has_memory:
    raise ValueError(
      f'{codec} cannot code the downlink: a client that was away lacks its memory, and what a '
      'message leaves out is in the next one without error feedback.'
    )
  if traits.needs_model or traits.needs_last_update or traits.whole_client:
    raise ValueError(f"{codec} cannot code the downlink: it filters a client's own update.")
  if not traits.corrigible:
    raise ValueError(
      f'{codec} cannot code the downlink: what it leaves out is in the next difference, which '
      'could grow without bound. Take a codec whose error is smaller than the value, such as '
      'top_k(0.1), float16, sign_sgd(scaled=True) or qsgd(stochastic=False).'
    )


def build_distributor(
  initial_model_weights: tff.Computation, codec: codecs.Codec, seed: int
) -> tff.learning.templates.DistributionProcess:
  """Builds what sends the model down.

  State: `version` (trainable weights), `spent` (int64, the bits of all messages so far), `round`
  (int32). What clients get: `weights`, `price` (of the round's message), `before` and `after`
  (the bits of all messages up to it, without and with it).
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

  @tff.federated_computation
  def initialize():
    return tff.federated_eval(first_state, tff.SERVER)

  @tff.federated_computation(
    initialize.type_signature.result, tff.FederatedType(weights_type, tff.SERVER)
  )
  def next_fn(state, weights):
    state, sent = tff.federated_map(code, (state, weights))
    measurements = tff.federated_value((), tff.SERVER)
    return tff.templates.MeasuredProcessOutput(state, tff.federated_broadcast(sent), measurements)

  return tff.learning.templates.DistributionProcess(initialize, next_fn)


def message_or_version(seen: tf.Tensor, sent: Any, version_price: ledger.Price) -> ledger.Price:
  """The price of bringing a client up to date.

  Args:
    seen: int64 [], the bits of all messages up to the last one that the client has, or
      `NEVER_SEEN`.
    sent: What the distributor sends.
    version_price: Of the whole version.
  """
  missed = sent['before'] - seen
  follow = ledger.add(sent['price'], ledger.price(catch_up=missed))
  whole = ledger.price(catch_up=ledger.total(version_price))
  is_whole = (seen < 0) | (ledger.total(follow) >= ledger.total(whole))
  return ledger.select(is_whole, whole, follow)


def build_receive(sent_type: tff.Type) -> tff.Computation:
  """`(<int64, sent> -> <int64, ModelWeights, price>)`: what a client makes of what it is sent.

  The number is the client's memory, see `message_or_version`, before and after.
  """
  weights_spec = tff.types.type_to_tf_tensor_specs(sent_type.weights)

  @tff.tensorflow.computation(np.int64, sent_type)
  def receive(seen, sent):
    version = message_or_version(seen, sent, ledger.dense_price(weights_spec.trainable))
    price = ledger.add(version, ledger.dense_price(weights_spec.non_trainable))
    return sent['after'], sent['weights'], price

  return receive


@tff.tensorflow.computation
def never_seen():
  """The memory of a client that was never sent anything."""
  return tf.constant(NEVER_SEEN, tf.int64)
