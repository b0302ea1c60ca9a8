"""Client work with memory, made of what one client does."""

import collections
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.client_work import frozen as frozen_work
from tff_lowrank.learning import process


class Worked(NamedTuple):
  """What one client has after its work.

  memory: what it remembers.
  result: `tff.learning.templates.ClientResult`.
  downlink: the price of what it was sent.
  metrics: unfinalized.
  """

  memory: Any
  result: Any
  downlink: Any
  metrics: Any


def build_work(
  training: frozen_work.LocalTraining,
  initialize_client: tff.Computation,
  broadcast_type: tff.Type,
  work: Callable[[Any, Any, tf.data.Dataset], Worked],
  received: Callable[[Any], Any],
) -> process.ClientStatefulWork:
  """Builds the work of all clients.

  Args:
    training: Tells the type of the data, and aggregates the metrics.
    initialize_client: `( -> C)`, the memory of a client that was never seen.
    broadcast_type: B, the type of what the server sends.
    work: TensorFlow function `(C, B, dataset) -> Worked`.
    received: TensorFlow function from B to the values that the update is a change of.
  """
  memory_type = initialize_client.type_signature.result

  @tff.tensorflow.computation(memory_type, broadcast_type, training.data_type)
  def work_at_client(memory, broadcast, dataset):
    return tuple(work(memory, broadcast, dataset))

  @tff.federated_computation
  def initialize():
    return tff.federated_value((), tff.SERVER)

  @tff.federated_computation(
    initialize.type_signature.result,
    tff.FederatedType(memory_type, tff.CLIENTS),
    tff.FederatedType(broadcast_type, tff.CLIENTS),
    tff.FederatedType(training.data_type, tff.CLIENTS),
  )
  def next_fn(state, memory, broadcast, client_data):
    memory, result, price, metrics = tff.federated_map(
      work_at_client, (memory, broadcast, client_data)
    )
    train = training.aggregate_metrics(metrics)
    measurements = tff.federated_zip(collections.OrderedDict(train=train))
    return process.ClientWorkOutput(state, memory, result, price, measurements)

  return process.ClientStatefulWork(
    initialize,
    initialize_client,
    next_fn,
    tff.tensorflow.computation(received, broadcast_type),
  )
