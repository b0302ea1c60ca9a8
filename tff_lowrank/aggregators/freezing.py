"""Means over the active coordinates of a model, and APF as a drop-in aggregator."""

import collections
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import freezing
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.aggregators import coded_mean


class Mask(NamedTuple):
  """What is frozen, with the price of what is not, computed once for all clients.

  frozen: One bool tensor for each of the model's, shaped alike or [].
  active_bits: int64 [], the price of the active values.
  num_active: int64 [], how many they are.
  """

  frozen: list[Any]
  active_bits: Any
  num_active: Any


def describe(frozen: list[tf.Tensor], value_spec: Any) -> Mask:
  """The `Mask` of `frozen` for a model of `value_spec`, tensors or specs."""
  active = [~mask for mask in frozen]
  bits = ledger.selected_price(active, value_spec)['payload']
  return Mask(frozen, bits, structures.count(active, value_spec))


def mask_type(settings: freezing.Settings, value_type: tff.Type) -> tff.Type:
  """The type of the `Mask` of `freezing.frozen_mask` for a model of `value_type`."""
  specs = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(value_type))
  whole = settings.granularity == 'tensor'
  frozen = [(np.bool_, () if whole else tuple(spec.shape)) for spec in specs]
  return tff.to_type(Mask(frozen, np.int64, np.int64))


class PartialUpdate(NamedTuple):
  """What a client of a partly frozen model has to send.

  update: The whole update; what it holds for frozen coordinates does not count.
  mask: What is frozen.
  """

  update: Any
  mask: Mask


def create_partial_mean(
  mean_factory: tff.aggregators.WeightedAggregationFactory,
  value_type: tff.Type,
  mask_type: tff.Type,
  weight_type: tff.Type,
) -> client_stateful.ClientStatefulAggregationProcess:
  """The weighted mean of `PartialUpdate`s of `value_type`; clients have one and the same mask.

  A client sends its active coordinates: 32 bits each for float32, and nothing to tell which
  they are, since both sides know the mask. The mean of a frozen coordinate is that of zeros.
  A client of weight 0, or whose update is not finite, is left out.

  If `mean_factory` is a `ReportingFactory`, it is given zeros for frozen coordinates, and its
  own report of what its messages cost stands.
  """
  is_reporting = isinstance(mean_factory, client_stateful.ReportingFactory)
  if is_reporting:
    mean_process = mean_factory.create_reporting(value_type, weight_type)
  else:
    mean_process = mean_factory.create(value_type, weight_type)
  partial_type = tff.to_type(PartialUpdate(value_type, mask_type))

  @tff.tensorflow.computation(partial_type, weight_type)
  def send(partial, weight):
    accepted = client_stateful.is_accepted(partial.update, weight)
    zeros = tf.nest.map_structure(tf.zeros_like, partial.update)
    left_out = [mask | ~accepted for mask in partial.mask.frozen]
    return (
      freezing.hold(left_out, zeros, partial.update),
      tf.where(accepted, weight, tf.zeros_like(weight)),
      client_stateful.report(
        accepted,
        ledger.price(payload=partial.mask.active_bits),
        official_units=partial.mask.num_active,
      ),
    )

  @tff.federated_computation(
    mean_process.initialize.type_signature.result,
    tff.FederatedType((), tff.CLIENTS),
    tff.FederatedType(partial_type, tff.CLIENTS),
    tff.FederatedType(weight_type, tff.CLIENTS),
  )
  def next_fn(state, client_state, partial, weight):
    value, weight, reports = tff.federated_map(send, (partial, weight))
    if is_reporting:
      output = mean_process.next(state, client_state, value, weight)
      measurements, reports = output.measurements, output.reports
    else:
      output = mean_process.next(state, value, weight)
      measurements = tff.federated_zip(
        collections.OrderedDict(
          summary=client_stateful.summarize(reports), mean=output.measurements
        )
      )
    return client_stateful.ClientStatefulAggregationOutput(
      output.state, client_state, output.result, measurements, reports
    )

  return client_stateful.ClientStatefulAggregationProcess(
    mean_process.initialize, client_stateful.no_memory, next_fn
  )


class FreezingFactory(client_stateful.ReportingFactory):
  """Adaptive Parameter Freezing for `model_aggregator` of any `tff.learning.algorithms.build_*`.

  Chen et al., Communication-Efficient Federated Learning with Adaptive Parameter Freezing,
  ICDCS 2021. Receives a structure of floats at clients. The clients send what is active; the
  aggregate of what is frozen is exactly 0. The check of stability sees minus the sum of the
  aggregates since the last one: with SGD of rate 1 at the server that is how the model changed.

  What `learning.build_apf_fed_avg` does and an aggregator cannot:
    * frozen coordinates are pinned in local training;
    * a server optimizer with momentum does not move them either, and what is checked is the
      change of the model under any server optimizer;
    * clients fetch only what changed. Here they are sent the whole model, and, as they remember
      nothing, the mask in each round: the smaller of a bitmap and of an index for each frozen
      coordinate.

  A round whose aggregate is not finite, as when no client is accepted, is no round: the state
  stays as it was, but for the inner mean's.

  State: `freezing` (`freezing.State`) and `mean`. Measurements: `freezing` (see
  `freezing.measure`), `summary`, `mean`.
  """

  def __init__(
    self,
    settings: freezing.Settings | None = None,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
  ):
    """Creates the factory.

    Args:
      settings: How parameters are frozen; `freezing.Settings()` if None. With a stability
        threshold of 0 the factory is its inner mean.
      mean_factory: Averages the active coordinates; `tff.aggregators.MeanFactory()` if None.

    Raises:
      TypeError: If an argument is of the wrong type.
    """
    settings = freezing.Settings() if settings is None else settings
    checks.check_type('settings', settings, freezing.Settings)
    self._settings = settings
    self._mean_factory = coded_mean.checked_mean_factory(mean_factory)

  def create_reporting(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    settings = self._settings
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    described_type = mask_type(settings, value_type)
    mean_process = create_partial_mean(self._mean_factory, value_type, described_type, weight_type)
    num_scalars = structures.num_elements(specs)

    @tff.tensorflow.computation
    def initial_freezing():
      return freezing.initial_state(settings, specs)

    freezing_type = initial_freezing.type_signature.result

    @tff.tensorflow.computation(freezing_type)
    def mask_of(state):
      return describe(freezing.frozen_mask(settings, state), specs)

    @tff.tensorflow.computation(value_type, described_type)
    def attach(value, mask):
      return PartialUpdate(value, mask)

    @tff.tensorflow.computation(client_stateful.REPORT_TYPE, described_type)
    def add_mask(report, mask):
      if settings.granularity == 'tensor':
        num_units = len(mask.frozen)
        num_frozen = structures.count(mask.frozen, mask.frozen)
      else:
        num_units, num_frozen = num_scalars, num_scalars - mask.num_active
      bits = ledger.index_set_bits(num_frozen, num_units)
      downlink = ledger.add(report['downlink'], ledger.price(index_or_mask=bits))
      return collections.OrderedDict(report, downlink=downlink)

    @tff.tensorflow.computation(freezing_type, value_type, described_type)
    def finish(state, mean, mask):
      zeros = tf.nest.map_structure(tf.zeros_like, mean)
      aggregate = freezing.hold(mask.frozen, zeros, mean)
      change = tf.nest.map_structure(tf.negative, aggregate)
      counts = structures.all_finite(aggregate)
      state = structures.select(counts, freezing.next_round(settings, state, change), state)
      return state, aggregate, freezing.measure(settings, state, specs)

    @tff.federated_computation
    def initialize():
      state = tff.federated_eval(initial_freezing, tff.SERVER)
      return tff.federated_zip(
        collections.OrderedDict(freezing=state, mean=mean_process.initialize())
      )

    @tff.federated_computation(
      initialize.type_signature.result,
      tff.FederatedType((), tff.CLIENTS),
      tff.FederatedType(value_type, tff.CLIENTS),
      tff.FederatedType(weight_type, tff.CLIENTS),
    )
    def next_fn(state, client_state, value, weight):
      # At clients.
      mask = tff.federated_map(mask_of, state['freezing'])
      mask_at_clients = tff.federated_broadcast(mask)
      partial = tff.federated_map(attach, (value, mask_at_clients))
      # To the server.
      mean_output = mean_process.next(state['mean'], client_state, partial, weight)
      reports = tff.federated_map(add_mask, (mean_output.reports, mask_at_clients))
      # At the server.
      freezing_state, aggregate, measured = tff.federated_map(
        finish, (state['freezing'], mean_output.result, mask)
      )
      new_state = collections.OrderedDict(freezing=freezing_state, mean=mean_output.state)
      measurements = collections.OrderedDict(
        freezing=measured,
        summary=client_stateful.summarize(reports),
        mean=mean_output.measurements,
      )
      return client_stateful.ClientStatefulAggregationOutput(
        tff.federated_zip(new_state),
        client_state,
        aggregate,
        tff.federated_zip(measurements),
        reports,
      )

    return client_stateful.ClientStatefulAggregationProcess(
      initialize, client_stateful.no_memory, next_fn
    )
