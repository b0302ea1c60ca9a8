"""Means over the active coordinates of a model, and APF as a drop-in aggregator."""

import collections
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.aggregators import coded_mean
from tff_lowrank.aggregators import legality


class Mask(NamedTuple):
  """What is frozen, and the cost of what is not, computed once for all clients.

  frozen: One bool tensor for each tensor of the model, of the same shape or [].
  active_bits: int64 [], the cost of the active values in bits.
  num_active: int64 [], the number of active values.
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
  """A client update of a partly frozen model.

  update: The whole update; its values at frozen coordinates are ignored.
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
  """The weighted mean of `PartialUpdate`s of `value_type`; all clients have the same mask.

  A client sends its active coordinates: 32 bits each for float32, and no indices, since both
  sides know the mask. Frozen coordinates enter the mean as zeros. `client_stateful.is_accepted`
  says which clients are excluded.
  """
  mean_process = mean_factory.create(value_type, weight_type)
  partial_type = tff.to_type(PartialUpdate(value_type, mask_type))

  @tff.tensorflow.computation(partial_type, weight_type)
  def send(partial, weight):
    accepted = client_stateful.is_accepted(partial.update, weight)
    zeros = tf.nest.map_structure(tf.zeros_like, partial.update)
    excluded = [mask | ~accepted for mask in partial.mask.frozen]
    return (
      freezing.hold(excluded, zeros, partial.update),
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
    output = mean_process.next(state, value, weight)
    measurements = tff.federated_zip(
      collections.OrderedDict(summary=client_stateful.summarize(reports), mean=output.measurements)
    )
    return client_stateful.ClientStatefulAggregationOutput(
      output.state, client_state, output.result, measurements, reports
    )

  return client_stateful.ClientStatefulAggregationProcess(
    mean_process.initialize, client_stateful.no_memory, next_fn
  )


def check_codec_under_freezing(codec: codecs.Codec | str) -> None:
  """Raises ValueError unless `codec` can encode the active coordinates alone."""
  codec = codecs.resolve(codec)
  traits = codec.traits
  if traits.fixed_shape:
    raise ValueError(
      f'{codec} does not work with freezing: it needs tensors of fixed shape, and the number of '
      'active coordinates changes.'
    )
  if traits.needs_model or traits.needs_last_update or traits.whole_client:
    raise ValueError(
      f'{codec} does not work with freezing: it selects coordinates or clients, too.'
    )


def create_coded_partial_mean(
  codec: codecs.Codec,
  mean_factory: tff.aggregators.WeightedAggregationFactory,
  seed: int,
  value_type: tff.Type,
  mask_type: tff.Type,
  weight_type: tff.Type,
) -> client_stateful.ClientStatefulAggregationProcess:
  """As `create_partial_mean`, with the active coordinates encoded by `codec`.

  For each tensor the codec gets the vector of its active coordinates; it encodes, and counts the
  bits of, nothing else. Its memory of frozen coordinates (a look-back vector, a residual) is kept
  until they are active again. The vectors' lengths vary, which TensorFlow supports but XLA does
  not.
  """
  check_codec_under_freezing(codec)
  legality.check_stack(codec, mean_factory)
  specs = tf.nest.flatten(tff.types.type_to_tf_tensor_specs(value_type))

  def code_active(memory, partial, weight, seed, reference):
    places = [
      tf.where(tf.reshape(tf.broadcast_to(~frozen, spec.shape), [-1]))
      for frozen, spec in zip(partial.mask.frozen, specs, strict=True)
    ]

    def pick(i, vector):
      return tf.gather_nd(vector, places[i])

    def put(i, vector, active):
      return tf.tensor_scatter_nd_update(vector, places[i], active)

    update = [tf.reshape(x, [-1]) for x in tf.nest.flatten(partial.update)]
    coded = coded_mean.code(
      codec,
      codec.map_memory(pick, memory),
      [pick(i, x) for i, x in enumerate(update)],
      weight,
      seed,
      reference,
    )
    decoded = [
      tf.reshape(put(i, tf.zeros_like(x), active), spec.shape)
      for i, (x, active, spec) in enumerate(zip(update, coded.value, specs, strict=True))
    ]
    return coded._replace(
      memory=codec.map_memory(put, memory, coded.memory),
      value=tf.nest.pack_sequence_as(partial.update, decoded),
    )

  sender = coded_mean.Sender(
    tff.to_type(PartialUpdate(value_type, mask_type)),
    [tf.TensorSpec([structures.size(spec)], spec.dtype) for spec in specs],
    code_active,
  )
  return coded_mean.create_process(codec, mean_factory, seed, value_type, weight_type, sender)


class FreezingFactory(client_stateful.ReportingFactory):
  """Adaptive Parameter Freezing for `model_aggregator` of any `tff.learning.algorithms.build_*`.

  Chen et al., Communication-Efficient Federated Learning with Adaptive Parameter Freezing,
  ICDCS 2021. Receives a structure of floats at clients. The clients send the active coordinates;
  the aggregate of frozen coordinates is exactly 0. The stability check uses minus the sum of the
  aggregates since the last check: with server SGD of rate 1 this is the change of the model.

  What `learning.build_apf_fed_avg` does and an aggregator cannot:
    * frozen coordinates do not change in local training;
    * a server optimizer with momentum does not change them either, and the check uses the change
      of the model under any server optimizer;
    * clients download only what changed. Here they download the whole model and, since they have
      no state, the mask in each round: as a bitmap or as an index for each frozen coordinate,
      whichever is smaller.

  A round whose aggregate is not finite (for example, because no client was accepted) changes no
  state except the inner mean's.

  State: `freezing` (`freezing.State`) and `mean`. Measurements: `freezing` (see
  `freezing.measure`), `summary`, `mean`.
  """

  def __init__(
    self,
    settings: freezing.Settings | None = None,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
    codec: codecs.Codec | str | None = None,
    *,
    seed: int = 0,
  ):
    """Creates the factory.

    Args:
      settings: How parameters are frozen; `freezing.Settings()` if None. With a stability
        threshold of 0 the factory is its inner mean.
      mean_factory: Averages the active coordinates; `tff.aggregators.MeanFactory()` if None.
      codec: Encodes the active coordinates; a codec without memory, or its text, or None to send
        them as they are.
      seed: Seeds, together with the round number, all randomness in the codec.

    Raises:
      TypeError: If an argument is of the wrong type.
      ValueError: If `codec` has memory, or does not work with freezing or `mean_factory`.
    """
    settings = freezing.Settings() if settings is None else settings
    checks.check_type('settings', settings, freezing.Settings)
    self._settings = settings
    self._mean_factory = coded_mean.checked_mean_factory(mean_factory)
    if codec is not None:
      codec = codecs.resolve(codec)
      check_codec_under_freezing(codec)
      if codec.has_memory:
        raise ValueError(
          f'{codec} has memory, but a standard TFF factory has no client state. Use it through '
          '`learning.build_apf_fed_avg`.'
        )
      legality.check_stack(codec, self._mean_factory)
    self._codec = codec
    self._seed = seed

  def create_reporting(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    settings = self._settings
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    described_type = mask_type(settings, value_type)
    types = (value_type, described_type, weight_type)
    if self._codec is None:
      mean_process = create_partial_mean(self._mean_factory, *types)
    else:
      mean_process = create_coded_partial_mean(self._codec, self._mean_factory, self._seed, *types)
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
