"""The weighted mean of values that travel through a codec."""

import collections
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful


class CodedValue(NamedTuple):
  """One client's part of a round; all but `message` is masked if the client was left out."""

  message: Any
  memory: Any
  value: Any
  weight: tf.Tensor
  report: Any
  measurements: Any


def code(
  codec: codecs.Codec, memory: Any, value: Any, weight: tf.Tensor, seed: tf.Tensor, **downlink: Any
) -> CodedValue:
  """Encodes `value` at a client and decodes it as the server will.

  `downlink` may hold the price of what the server sent for this; `report` takes it.
  """
  accepted = client_stateful.is_accepted(value, weight)
  encoded = codec.encode(memory, value, seed)
  decoded = tf.nest.pack_sequence_as(value, codec.decode(memory, encoded.message))
  measurements = (encoded.measurements, tf.nest.map_structure(tf.zeros_like, encoded.measurements))
  return CodedValue(
    message=encoded.message,
    memory=structures.select(accepted, encoded.memory, memory),
    value=structures.select(accepted, decoded, tf.nest.map_structure(tf.zeros_like, decoded)),
    weight=tf.where(accepted, weight, tf.zeros_like(weight)),
    report=client_stateful.report(
      accepted,
      codec.message_price(encoded.message),
      official_units=codec.official_units(encoded.message),
      **downlink,
    ),
    measurements=structures.select(accepted, *measurements),
  )


@tff.tensorflow.computation
def _means(sums):
  return collections.OrderedDict(
    (name, tf.math.divide_no_nan(total, count)) for name, (total, count) in sums.items()
  )


def mean_measurements(measurements: Any) -> Any:
  """The means over clients of a codec's measurements, in a federated computation."""
  return tff.federated_map(_means, tff.federated_sum(measurements))


def _create(
  codec: codecs.Codec,
  mean_factory: tff.aggregators.WeightedAggregationFactory,
  seed: int,
  value_type: tff.Type,
  weight_type: tff.Type,
) -> client_stateful.ClientStatefulAggregationProcess:
  """The process behind both factories below."""
  mean_process = mean_factory.create(value_type, weight_type)

  @tff.tensorflow.computation
  def initialize_client():
    return codec.initial_memory(tff.types.type_to_tf_tensor_specs(value_type))

  @tff.tensorflow.computation
  def first_round():
    return 0

  @tff.tensorflow.computation
  def next_round(round_num):
    return round_num + 1

  memory_type = initialize_client.type_signature.result
  round_type = first_round.type_signature.result

  @tff.tensorflow.computation(memory_type, value_type, weight_type, round_type)
  def code_at_client(memory, value, weight, round_num):
    coded = code(codec, memory, value, weight, tf.stack([seed, round_num]))
    return coded.memory, coded.value, coded.weight, coded.report, coded.measurements

  @tff.federated_computation
  def initialize():
    round_num = tff.federated_eval(first_round, tff.SERVER)
    state = collections.OrderedDict(round=round_num, mean=mean_process.initialize())
    return tff.federated_zip(state)

  @tff.federated_computation(
    initialize.type_signature.result,
    tff.FederatedType(memory_type, tff.CLIENTS),
    tff.FederatedType(value_type, tff.CLIENTS),
    tff.FederatedType(weight_type, tff.CLIENTS),
  )
  def next_fn(state, client_state, value, weight):
    # At clients.
    round_num = tff.federated_broadcast(state['round'])
    client_state, value, weight, reports, measurements = tff.federated_map(
      code_at_client, (client_state, value, weight, round_num)
    )
    # To the server.
    mean_output = mean_process.next(state['mean'], value, weight)
    # At the server.
    new_state = collections.OrderedDict(
      round=tff.federated_map(next_round, state['round']), mean=mean_output.state
    )
    measurements = collections.OrderedDict(
      codec=mean_measurements(measurements),
      summary=client_stateful.summarize(reports),
      mean=mean_output.measurements,
    )
    return client_stateful.ClientStatefulAggregationOutput(
      tff.federated_zip(new_state),
      client_state,
      mean_output.result,
      tff.federated_zip(measurements),
      reports,
    )

  return client_stateful.ClientStatefulAggregationProcess(initialize, initialize_client, next_fn)


def checked_mean_factory(
  mean_factory: tff.aggregators.WeightedAggregationFactory | None,
) -> tff.aggregators.WeightedAggregationFactory:
  """`mean_factory`, or TFF's own where it is None; raises TypeError if it is something else."""
  if mean_factory is None:
    return tff.aggregators.MeanFactory()
  checks.check_type('mean_factory', mean_factory, tff.aggregators.WeightedAggregationFactory)
  return mean_factory


class CodedMeanFactory(client_stateful.ReportingFactory):
  """The weighted mean of updates that travel through a codec without memory.

  A standard factory, for `model_aggregator` of any `tff.learning.algorithms.build_*`. Receives
  a structure of floats at clients; passes what the server decodes to an inner mean; returns
  its result. A client of weight 0 or with a value that is not finite is left out.

  State: `round` (int32, seeds the codec), `mean` (the inner factory's).
  Measurements: `codec` (its means over clients), `summary` (`uplink_bits` and `downlink_bits`
  by kind, `dropped_clients`), `mean` (the inner factory's).
  """

  def __init__(
    self,
    codec: codecs.Codec,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
    *,
    seed: int = 0,
  ):
    """Creates the factory.

    Args:
      codec: A codec without memory.
      mean_factory: Averages the decoded values; `tff.aggregators.MeanFactory()` if None.
      seed: Decides, with the round, all that is random in the codec.

    Raises:
      TypeError: If an argument is of the wrong type.
      ValueError: If `codec` has memory.
    """
    checks.check_type('codec', codec, codecs.Codec)
    if codec.has_memory:
      raise ValueError(
        f'Expected a codec without memory, found {codec!r}, whose clients must remember. Use it '
        'through `ClientStatefulCodedMeanFactory`.'
      )
    checks.check_type('seed', seed, int)
    self._codec = codec
    self._mean_factory = checked_mean_factory(mean_factory)
    self._seed = seed

  def create_reporting(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    return _create(self._codec, self._mean_factory, self._seed, value_type, weight_type)


class ClientStatefulCodedMeanFactory(client_stateful.ClientStatefulAggregationFactory):
  """The weighted mean of updates that travel through any codec, its memory at the clients.

  As `CodedMeanFactory`, but each client's memory (`codec.initial_memory` at first) goes in and
  comes out at clients. LBGM is `ClientStatefulCodedMeanFactory(codecs.LookBack())`.
  """

  def __init__(
    self,
    codec: codecs.Codec,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
    *,
    seed: int = 0,
  ):
    """Creates the factory; the arguments are those of `CodedMeanFactory`, for any codec."""
    checks.check_type('codec', codec, codecs.Codec)
    checks.check_type('seed', seed, int)
    self._codec = codec
    self._mean_factory = checked_mean_factory(mean_factory)
    self._seed = seed

  def create(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    return _create(self._codec, self._mean_factory, self._seed, value_type, weight_type)
