"""APF as an aggregator for any of TFF's algorithms."""

import collections

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
from tff_lowrank.aggregators import partial_mean


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
      partial_mean.check_codec_under_freezing(codec)
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
    described_type = partial_mean.mask_type(settings, value_type)
    types = (value_type, described_type, weight_type)
    if self._codec is None:
      mean_process = partial_mean.create_partial_mean(self._mean_factory, *types)
    else:
      mean_process = partial_mean.create_coded_partial_mean(
        self._codec, self._mean_factory, self._seed, *types
      )
    num_scalars = structures.num_elements(specs)

    @tff.tensorflow.computation
    def initial_freezing():
      return freezing.initial_state(settings, specs)

    freezing_type = initial_freezing.type_signature.result

    @tff.tensorflow.computation(freezing_type)
    def mask_of(state):
      return partial_mean.describe(freezing.frozen_mask(settings, state), specs)

    @tff.tensorflow.computation(value_type, described_type)
    def attach(value, mask):
      return partial_mean.PartialUpdate(value, mask)

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
