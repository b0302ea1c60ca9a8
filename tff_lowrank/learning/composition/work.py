"""Client work with client state, built from a function for one client."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.client_work import training as training_lib


class ClientWorkOutput(NamedTuple):
  """What `ClientStatefulWork.next` returns.

  state: S@SERVER.
  client_state: C@CLIENTS, the client state after the round if the update is accepted.
  excluded_state: C@CLIENTS, the client state if the client is excluded from the aggregate.
  result: `tff.learning.templates.ClientResult`@CLIENTS.
  downlink: price@CLIENTS, the cost of what each client received.
  measurements: M@SERVER.
  """

  state: Any
  client_state: Any
  excluded_state: Any
  result: Any
  downlink: Any
  measurements: Any


class ClientStatefulWork(NamedTuple):
  """Client work whose clients may have state, and that computes the downlink's cost in bits.

  initialize: `( -> S@SERVER)`.
  initialize_client: `( -> C)`, unplaced.
  next: `(<S@SERVER, C@CLIENTS, B@CLIENTS, {D*}@CLIENTS> -> ClientWorkOutput)`; B is broadcast.
  received: `(B -> trainable weights)`, what a client starts from; for codecs that need it.
  """

  initialize: tff.Computation
  initialize_client: tff.Computation
  next: tff.Computation
  received: tff.Computation | None = None


class Worked(NamedTuple):
  """The result of one client's work.

  memory: the new client state.
  result: `tff.learning.templates.ClientResult`.
  downlink: the cost of what the client received.
  metrics: unfinalized.
  excluded_memory: the new client state if the client is excluded from the aggregate: it records
    what the client received, but nothing from its training. None for the same as `memory`.
  """

  memory: Any
  result: Any
  downlink: Any
  metrics: Any
  excluded_memory: Any = None


def build_work(
  training: training_lib.LocalTraining,
  initialize_client: tff.Computation,
  broadcast_type: tff.Type,
  work: Callable[[training_lib.LocalTraining, Any, Any, tf.data.Dataset], Worked],
  received: Callable[[Any], Any],
) -> ClientStatefulWork:
  """Builds the work of all clients.

  Args:
    training: Local training of a client.
    initialize_client: `( -> C)`, the state of a new client.
    broadcast_type: B, the type of what the server broadcasts.
    work: TensorFlow function `(training, C, B, dataset) -> Worked`; gets the round's training.
    received: TensorFlow function from B to the values that local training starts from.

  The server's state is the number of rounds done, int32, if the learning rate has a schedule.
  """
  memory_type = initialize_client.type_signature.result
  is_scheduled = training.schedule is not None
  round_type = tff.TensorType(np.int32) if is_scheduled else tff.to_type(())

  @tff.tensorflow.computation(memory_type, broadcast_type, training.data_type, round_type)
  def work_at_client(memory, broadcast, dataset, round_num):
    worked = work(training.in_round(round_num), memory, broadcast, dataset)
    if worked.excluded_memory is None:
      worked = worked._replace(excluded_memory=worked.memory)
    return tuple(worked)

  @tff.tensorflow.computation(np.int32)
  def add_one(round_num):
    return round_num + 1

  @tff.federated_computation
  def initialize():
    return tff.federated_value(0 if is_scheduled else (), tff.SERVER)

  @tff.federated_computation(
    tff.FederatedType(round_type, tff.SERVER),
    tff.FederatedType(memory_type, tff.CLIENTS),
    tff.FederatedType(broadcast_type, tff.CLIENTS),
    tff.FederatedType(training.data_type, tff.CLIENTS),
  )
  def next_fn(round_num, memory, broadcast, client_data):
    memory, result, price, metrics, excluded_memory = tff.federated_map(
      work_at_client, (memory, broadcast, client_data, tff.federated_broadcast(round_num))
    )
    train = training.aggregate_metrics(metrics)
    measurements = tff.federated_zip(collections.OrderedDict(train=train))
    if is_scheduled:
      round_num = tff.federated_map(add_one, round_num)
    return ClientWorkOutput(round_num, memory, excluded_memory, result, price, measurements)

  return ClientStatefulWork(
    initialize,
    initialize_client,
    next_fn,
    tff.tensorflow.computation(received, broadcast_type),
  )


def build_memoryless_work(
  training: training_lib.LocalTraining,
  train: Callable[[training_lib.LocalTraining, Any, tf.data.Dataset], training_lib.Trained],
) -> ClientStatefulWork:
  """Builds the work of clients that receive the whole model and have no state.

  train: TensorFlow function `(training, ModelWeights, dataset) -> Trained`.
  """
  spec = tff.types.type_to_tf_tensor_specs(training.weights_type)

  def work(training, memory, weights, dataset):
    trained = train(training, weights, dataset)
    return Worked(memory, trained.result, ledger.dense_price(spec), trained.metrics)

  return build_work(
    training,
    client_stateful.no_memory,
    training.weights_type,
    work,
    lambda weights: weights.trainable,
  )


def build_receiving_work(
  work: ClientStatefulWork,
  initialize_client: tff.Computation,
  receive: tff.Computation,
  received: tff.Computation,
) -> ClientStatefulWork:
  """`work`, of clients without state, on what a distributor sends.

  Args:
    work: Trains from the whole model.
    initialize_client: `( -> C)`, the state of a client that has received nothing.
    receive: `(<C, sent> -> <C, ModelWeights, price>)`.
    received: As `ClientStatefulWork.received`.
  """
  parameter = work.next.type_signature.parameter
  seen_type, sent_type = receive.type_signature.parameter

  @tff.federated_computation(
    parameter[0],
    tff.FederatedType(seen_type, tff.CLIENTS),
    tff.FederatedType(sent_type, tff.CLIENTS),
    parameter[3],
  )
  def next_fn(state, seen, sent, client_data):
    seen, weights, price = tff.federated_map(receive, (seen, sent))
    nothing = tff.federated_eval(client_stateful.no_memory, tff.CLIENTS)
    output = work.next(state, nothing, weights, client_data)
    return ClientWorkOutput(output.state, seen, seen, output.result, price, output.measurements)

  return ClientStatefulWork(work.initialize, initialize_client, next_fn, received)


def build_zero_memory(name: str, weights_type: tff.Type) -> tff.Computation:
  """`( -> C)`: zeros for each trainable weight, under the key `name`."""
  spec = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(weights_type.trainable))

  @tff.tensorflow.computation
  def initialize_client():
    return collections.OrderedDict([(name, tuple(structures.zeros(spec)))])

  return initialize_client
