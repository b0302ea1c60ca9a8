"""The parts of a learning process in which a part of the model is frozen."""

import collections
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import freezing
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import partial_mean
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.freezing import freezer
from tff_lowrank.freezing import synchronisation
from tff_lowrank.learning.composition import finalizer as finalizer_lib
from tff_lowrank.learning.composition import work as work_lib


class Broadcast(NamedTuple):
  """What the server broadcasts. Only what a client does not have yet counts as downlink.

  weights: `ModelWeights`.
  mask: `aggregators.partial_mean.Mask` of the round.
  book: `freezing.synchronisation.Book`, only needed to compute the cost.
  changed: The version in which each coordinate last changed, for clients that keep their own
    values; else `()`.
  """

  weights: Any
  mask: Any
  book: Any
  changed: Any


def build_finalizer(
  server_optimizer: tff.learning.optimizers.Optimizer,
  weights_type: tff.Type,
  settings: freezing.Settings,
) -> tff.learning.templates.FinalizerProcess:
  """A step of the server optimizer on the active weights, then the stability check.

  Frozen weights keep their value and their optimizer slots (momentum, moments), as if no round
  had happened. An update that is not finite is rejected and changes nothing.
  State: `optimizer`, `freezing`, `changed`.
  """
  inner = finalizer_lib.build_finalizer(server_optimizer, weights_type)
  trainable_type = weights_type.trainable
  spec = tff.types.type_to_tf_tensor_specs(trainable_type)

  @tff.tensorflow.computation
  def initial_freezing():
    state = freezing.initial_state(settings, spec)
    changed = synchronisation.initial_changed(freezing.frozen_mask(settings, state))
    return state, changed

  @tff.federated_computation
  def initialize():
    state, changed = tff.federated_eval(initial_freezing, tff.SERVER)
    return tff.federated_zip(
      collections.OrderedDict(optimizer=inner.initialize(), freezing=state, changed=changed)
    )

  state_type = initialize.type_signature.result.member
  optimizer_type = inner.initialize.type_signature.result.member

  @tff.tensorflow.computation(state_type, trainable_type, optimizer_type, trainable_type, np.int32)
  def finish(state, before, optimizer, after, rejected):
    old = state['freezing']
    frozen = freezing.frozen_mask(settings, old)
    after = freezing.hold(frozen, before, after)
    optimizer = freezer.hold_slots(frozen, before, state['optimizer'], optimizer)
    new = freezing.next_round(settings, old, tf.nest.map_structure(tf.subtract, after, before))
    changed = synchronisation.next_changed(state['changed'], frozen, new.round)
    kept = rejected > 0
    new = structures.select(kept, old, new)
    new_state = collections.OrderedDict(
      optimizer=optimizer,
      freezing=new,
      changed=structures.select(kept, state['changed'], changed),
    )
    return new_state, after, freezing.measure(settings, new, spec)

  @tff.federated_computation(
    initialize.type_signature.result,
    tff.FederatedType(weights_type, tff.SERVER),
    tff.FederatedType(trainable_type, tff.SERVER),
  )
  def next_fn(state, weights, update):
    stepped = inner.next(state['optimizer'], weights, update)
    rejected = stepped.measurements['update_non_finite']
    new_state, trainable, measured = tff.federated_map(
      finish, (state, weights.trainable, stepped.state, stepped.result.trainable, rejected)
    )
    new_weights = tff.learning.models.ModelWeights(trainable, weights.non_trainable)
    measurements = collections.OrderedDict(update_non_finite=rejected, freezing=measured)
    return tff.templates.MeasuredProcessOutput(
      new_state, tff.federated_zip(new_weights), tff.federated_zip(measurements)
    )

  return tff.learning.templates.FinalizerProcess(initialize, next_fn)


def build_outgoing(
  state_type: tff.Type, weights_type: tff.Type, settings: freezing.Settings, keeps_own: bool
) -> tff.Computation:
  """`(<finalizer state, ModelWeights> -> Broadcast)`."""
  spec = tff.types.type_to_tf_tensor_specs(weights_type.trainable)

  @tff.tensorflow.computation(state_type, weights_type)
  def outgoing(state, weights):
    frozen, changed = freezing.frozen_mask(settings, state['freezing']), state['changed']
    return Broadcast(
      weights,
      partial_mean.describe(frozen, spec),
      synchronisation.sum_up(changed, frozen, state['freezing'].round, spec),
      changed if keeps_own else (),
    )

  return outgoing


def build_work(
  training: training_lib.LocalTraining,
  broadcast_type: tff.Type,
  settings: freezing.Settings,
  mask_policy: str,
  keeps_own: bool,
) -> work_lib.ClientStatefulWork:
  """Local training from the broadcast; its cost is what the client does not have yet.

  Client state: `version`, the last one that the client received. If `keeps_own`, frozen
  coordinates are trained too: they start from `own`, the client's own values, and update it.
  """
  trainable_spec = tff.types.type_to_tf_tensor_specs(training.weights_type.trainable)
  non_trainable_spec = tff.types.type_to_tf_tensor_specs(training.weights_type.non_trainable)

  @tff.tensorflow.computation
  def initialize_client():
    memory = collections.OrderedDict(version=tf.constant(synchronisation.NEVER_SEEN))
    if keeps_own:
      memory['own'] = structures.zeros(trainable_spec)
    return memory

  def work(training, memory, broadcast, dataset):
    known, frozen, weights = memory['version'], broadcast.mask.frozen, broadcast.weights
    price = synchronisation.downlink_price(
      settings, mask_policy, trainable_spec, known, broadcast.book
    )
    # Non-trainable weights are never frozen: every client receives them in every round.
    price = ledger.add(price, ledger.dense_price(non_trainable_spec))
    if keeps_own:
      own = synchronisation.own_mask(frozen, broadcast.changed, known)
      start = freezing.hold(own, memory['own'], weights.trainable)
      weights = tff.learning.models.ModelWeights(start, weights.non_trainable)
    trained = training.train(weights, None if keeps_own else frozen, dataset)
    memory = collections.OrderedDict(version=broadcast.book.version)
    excluded = memory.copy()
    if keeps_own:
      memory['own'], excluded['own'] = trained.trainable, weights.trainable
    update = partial_mean.PartialUpdate(trained.result.update, broadcast.mask)
    result = tff.learning.templates.ClientResult(update, trained.result.update_weight)
    return work_lib.Worked(memory, result, price, trained.metrics, excluded)

  return work_lib.build_work(
    training, initialize_client, broadcast_type, work, lambda broadcast: broadcast.weights.trainable
  )


def build_personalize(
  state_type: tff.Type,
  memory_type: tff.Type,
  weights_type: tff.Type,
  settings: freezing.Settings,
) -> tff.Computation:
  """`(<finalizer state, client state, ModelWeights> -> ModelWeights)`: a client's own model."""

  @tff.tensorflow.computation(state_type, memory_type, weights_type)
  def personalize(state, memory, weights):
    frozen = freezing.frozen_mask(settings, state['freezing'])
    own = synchronisation.own_mask(frozen, state['changed'], memory['version'])
    trainable = freezing.hold(own, memory['own'], weights.trainable)
    return tff.learning.models.ModelWeights(trainable, weights.non_trainable)

  return personalize
