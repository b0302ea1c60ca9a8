"""Aggregation whose clients keep state between rounds.

`tff.templates.AggregationProcess` keeps state only at the server. LBGM, error feedback and
others need state at each client. A `ClientStatefulAggregationProcess` takes the client state as
an argument and returns it, placed at clients; the training loop stores it (see `client_state`).
"""

import abc
import collections
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import ledger
from tff_lowrank import structures


class ClientStatefulAggregationOutput(NamedTuple):
  """What `ClientStatefulAggregationProcess.next` returns.

  state: S@SERVER.
  client_state: C@CLIENTS, the client state after the round.
  result: V@SERVER, the aggregate.
  measurements: M@SERVER.
  reports: R@CLIENTS, what each client's messages cost: `accepted` (bool, false for a client
    that was excluded), `uplink` and `downlink` (bits by kind, a `ledger` price; the downlink is
    what this process broadcasts, without the model), `official_units` (int64, of the uplink).
  """

  state: Any
  client_state: Any
  result: Any
  measurements: Any
  reports: Any


PRICE_TYPE = tff.to_type(collections.OrderedDict((kind, np.int64) for kind in ledger.KINDS))
REPORT_TYPE = tff.to_type(
  collections.OrderedDict(
    accepted=np.bool_, uplink=PRICE_TYPE, downlink=PRICE_TYPE, official_units=np.int64
  )
)


class ClientStatefulAggregationProcess:
  """A weighted aggregation with state at the server and at each client.

  A client is excluded if its weight is not finite and above 0, or if its value, as the server
  decodes it, is not finite (see `is_accepted`). An excluded client adds nothing to the aggregate,
  sends nothing, and its client state does not change.
  """

  def __init__(
    self,
    initialize: tff.Computation,
    initialize_client: tff.Computation,
    next_fn: tff.Computation,
  ):
    """Creates the process from its three computations.

    Args:
      initialize: `( -> S@SERVER)`.
      initialize_client: `( -> C)`, unplaced: the state of a new client.
      next_fn: `(<S@SERVER, C@CLIENTS, V@CLIENTS, W@CLIENTS> ->
        ClientStatefulAggregationOutput)`; or with a fifth parameter V@CLIENTS, the weights of
        the model that the clients received.

    Raises:
      TypeError: If the types do not fit each other.
    """
    parameter, result = next_fn.type_signature.parameter, next_fn.type_signature.result
    state_type = initialize.type_signature.result
    client_state_type = tff.FederatedType(initialize_client.type_signature.result, tff.CLIENTS)
    parameter[0].check_assignable_from(state_type)
    parameter[1].check_assignable_from(client_state_type)
    parameter[0].check_assignable_from(result.state)
    parameter[1].check_assignable_from(result.client_state)
    tff.FederatedType(REPORT_TYPE, tff.CLIENTS).check_assignable_from(result.reports)
    self._initialize = initialize
    self._initialize_client = initialize_client
    self._next = next_fn

  @property
  def initialize(self) -> tff.Computation:
    return self._initialize

  @property
  def initialize_client(self) -> tff.Computation:
    return self._initialize_client

  @property
  def next(self) -> tff.Computation:
    return self._next

  @property
  def takes_model(self) -> bool:
    """Whether `next` has the fifth parameter."""
    return len(self.next.type_signature.parameter) > 4

  @property
  def has_client_state(self) -> bool:
    client_state_type = self.initialize_client.type_signature.result
    return tff.types.contains(client_state_type, lambda t: isinstance(t, tff.TensorType))


class ClientStatefulAggregationFactory(abc.ABC):
  """Creates `ClientStatefulAggregationProcess`es for given types."""

  @abc.abstractmethod
  def create(self, value_type: tff.Type, weight_type: tff.Type) -> ClientStatefulAggregationProcess:
    """Creates the process for `{value_type}@CLIENTS` weighted by `{weight_type}@CLIENTS`."""


def is_accepted(value: Any, weight: tf.Tensor) -> tf.Tensor:
  """bool []: whether a client is included in the aggregate.

  Its weight must be finite and above 0, and the product of value and weight, in the value's own
  dtype (as a weighted mean computes it), must be finite.
  """
  weighted = [x * tf.cast(weight, x.dtype) for x in tf.nest.flatten(value)]
  return structures.all_finite([weight, weighted]) & (weight > 0)


def report(
  accepted: tf.Tensor,
  uplink: ledger.Price,
  downlink: ledger.Price | None = None,
  official_units: tf.Tensor | int = 0,
) -> collections.OrderedDict[str, Any]:
  """One client's report; an excluded client sent nothing, but received the broadcast."""
  nothing = ledger.price()
  return collections.OrderedDict(
    accepted=accepted,
    uplink=ledger.select(accepted, uplink, nothing),
    downlink=nothing if downlink is None else downlink,
    official_units=tf.where(accepted, tf.cast(official_units, tf.int64), 0),
  )


@tff.tensorflow.computation(REPORT_TYPE)
def _summary(one_report):
  return collections.OrderedDict(
    uplink_bits=one_report['uplink'],
    downlink_bits=one_report['downlink'],
    dropped_clients=tf.cast(~one_report['accepted'], tf.int32),
  )


def summarize(reports: Any) -> Any:
  """Sums `reports`, in a federated computation, to measurements at the server.

  They are `uplink_bits` and `downlink_bits` by kind, and `dropped_clients`.
  """
  return tff.federated_sum(tff.federated_map(_summary, reports))


def without_client_state(
  process: ClientStatefulAggregationProcess,
) -> tff.templates.AggregationProcess:
  """Converts to a standard TFF process; raises TypeError if clients have state."""
  if process.has_client_state:
    raise TypeError(
      'Expected a process without client state, found client state of type '
      f'{process.initialize_client.type_signature.result}.'
    )
  parameter = process.next.type_signature.parameter

  @tff.federated_computation(parameter[0], parameter[2], parameter[3])
  def next_fn(state, value, weight):
    client_state = tff.federated_eval(process.initialize_client, tff.CLIENTS)
    output = process.next(state, client_state, value, weight)
    return tff.templates.MeasuredProcessOutput(output.state, output.result, output.measurements)

  return tff.templates.AggregationProcess(process.initialize, next_fn)


class ReportingFactory(tff.aggregators.WeightedAggregationFactory):
  """A standard weighted factory that can also report what each client's messages cost."""

  @abc.abstractmethod
  def create_reporting(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> ClientStatefulAggregationProcess:
    """As `create`, but with reports; the clients have no state."""

  def create(self, value_type: tff.Type, weight_type: tff.Type) -> tff.templates.AggregationProcess:
    return without_client_state(self.create_reporting(value_type, weight_type))


@tff.tensorflow.computation
def no_memory():
  """`initialize_client` of clients without state."""
  return ()


class _LiftedFactory(ClientStatefulAggregationFactory):
  """See `lift`."""

  def __init__(self, factory: tff.aggregators.WeightedAggregationFactory):
    self._factory = factory

  def create(self, value_type: tff.Type, weight_type: tff.Type) -> ClientStatefulAggregationProcess:
    if isinstance(self._factory, ReportingFactory):
      return self._factory.create_reporting(value_type, weight_type)
    process = self._factory.create(value_type, weight_type)

    @tff.tensorflow.computation(value_type, weight_type)
    def admit(value, weight):
      accepted = is_accepted(value, weight)
      units = structures.num_elements(value)
      return (
        structures.select(accepted, value, tf.nest.map_structure(tf.zeros_like, value)),
        tf.where(accepted, weight, tf.zeros_like(weight)),
        report(accepted, ledger.dense_price(value), official_units=units),
      )

    @tff.federated_computation(
      process.initialize.type_signature.result,
      tff.FederatedType((), tff.CLIENTS),
      tff.FederatedType(value_type, tff.CLIENTS),
      tff.FederatedType(weight_type, tff.CLIENTS),
    )
    def next_fn(state, client_state, value, weight):
      value, weight, reports = tff.federated_map(admit, (value, weight))
      output = process.next(state, value, weight)
      measurements = tff.federated_zip(
        collections.OrderedDict(summary=summarize(reports), inner=output.measurements)
      )
      return ClientStatefulAggregationOutput(
        output.state, client_state, output.result, measurements, reports
      )

    return ClientStatefulAggregationProcess(process.initialize, no_memory, next_fn)


def lift(
  factory: tff.aggregators.WeightedAggregationFactory | ClientStatefulAggregationFactory,
) -> ClientStatefulAggregationFactory:
  """Converts a standard weighted factory to a `ClientStatefulAggregationFactory`.

  A `ReportingFactory` reports the cost of its own messages. For any other factory, the uplink
  costs the dense value in the value's own dtype.
  """
  if isinstance(factory, ClientStatefulAggregationFactory):
    return factory
  if isinstance(factory, tff.aggregators.WeightedAggregationFactory):
    return _LiftedFactory(factory)
  raise TypeError(
    'Expected a `tff.aggregators.WeightedAggregationFactory` or a '
    f'`ClientStatefulAggregationFactory`, found {type(factory).__name__}. Wrap an unweighted '
    'factory in `tff.aggregators.as_weighted_aggregator`.'
  )
