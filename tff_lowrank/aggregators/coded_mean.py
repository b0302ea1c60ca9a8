"""The weighted mean of values compressed by a codec."""

import collections
from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.aggregators import legality
from tff_lowrank.codecs import quantize


class CodedValue(NamedTuple):
  """One client's part of a round; all but `message` is masked if the client is excluded."""

  message: Any
  memory: Any
  value: Any
  weight: tf.Tensor
  report: Any
  measurements: Any


def code(
  codec: codecs.Codec,
  memory: Any,
  value: Any,
  weight: tf.Tensor,
  seed: tf.Tensor,
  reference: codecs.Reference | None = None,
  **downlink: Any,
) -> CodedValue:
  """Encodes `value` at a client and decodes it as the server will.

  A client is excluded if its value, the decoded value or its new memory is not finite: a codec
  can overflow on a finite value.

  `downlink` is the cost of what the server sent for this, for `report`.
  """
  encoded = codec.encode(memory, value, seed, reference)
  decoded = tf.nest.pack_sequence_as(value, codec.decode(memory, encoded.message))
  accepted = structures.all_finite([value, encoded.memory])
  accepted &= client_stateful.is_accepted(decoded, weight)
  counts = accepted & encoded.takes_part
  measurements = (encoded.measurements, tf.nest.map_structure(tf.zeros_like, encoded.measurements))
  return CodedValue(
    message=encoded.message,
    memory=structures.select(accepted, encoded.memory, memory),
    value=structures.select(counts, decoded, tf.nest.map_structure(tf.zeros_like, decoded)),
    weight=tf.where(counts, weight, tf.zeros_like(weight)),
    report=client_stateful.report(
      accepted,
      codec.message_price(encoded.message),
      official_units=codec.official_units(encoded.message),
      **downlink,
    ),
    measurements=structures.select(accepted, *measurements),
  )


@tff.tensorflow.computation
def _last_finite(before, aggregate):
  # The mean of a round without any client is NaN.
  return structures.select(structures.all_finite(aggregate), aggregate, before)


@tff.tensorflow.computation
def _means(sums):
  return collections.OrderedDict(
    (name, tf.math.divide_no_nan(total, count)) for name, (total, count) in sums.items()
  )


def mean_measurements(measurements: Any) -> Any:
  """The means over clients of a codec's measurements, in a federated computation."""
  return tff.federated_map(_means, tff.federated_sum(measurements))


def signs_price(value_type: tff.Type, round_num: tf.Tensor) -> ledger.Price:
  """The cost of the signs (-1, 0, 1) of the last aggregate, five per byte; 0 in round 0."""
  n = structures.num_elements(tff.types.type_to_tf_tensor_specs(value_type))
  signs = ledger.price(payload=quantize.symbol_bits(n, 3))
  return ledger.select(round_num > 0, signs, ledger.price())


class Sender(NamedTuple):
  """How clients encode their input, if it is not simply a value.

  value_type: The type of a client's input.
  memory_spec: `tf.TensorSpec`s of the codec's input.
  code: As `code` without the codec; the decoded value is an input of the mean.
  known_type: of what clients know of the model, where that is not its weights: of the fifth
    parameter of the process, the tensors of which are the reference's `model`.
  initial_memory: as the codec's, for a memory that is not the codec's.
  """

  value_type: tff.Type
  memory_spec: Any
  code: Callable[..., CodedValue]
  known_type: tff.Type | None = None
  initial_memory: Callable[[Any], Any] | None = None


def create_process(
  codec: codecs.Codec,
  mean_factory: tff.aggregators.WeightedAggregationFactory,
  seed: int,
  value_type: tff.Type,
  weight_type: tff.Type,
  sender: Sender | None = None,
) -> client_stateful.ClientStatefulAggregationProcess:
  """The process behind the factories of coded means; `mean_factory` is given `value_type`."""
  mean_process = mean_factory.create(value_type, weight_type)
  if sender is None:
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    sender = Sender(value_type, specs, functools.partial(code, codec))

  @tff.tensorflow.computation
  def initialize_client():
    return (sender.initial_memory or codec.initial_memory)(sender.memory_spec)

  @tff.tensorflow.computation
  def first_round():
    return 0

  @tff.tensorflow.computation
  def next_round(round_num):
    return round_num + 1

  @tff.tensorflow.computation
  def zeros():
    return structures.zeros(tff.types.type_to_tf_tensor_specs(value_type))

  traits = codec.traits
  known_type = sender.known_type
  if known_type is None and traits.needs_model:
    known_type = value_type
  memory_type = initialize_client.type_signature.result
  # The server broadcasts its round number, and its last aggregate if the codec needs it.
  context = collections.OrderedDict(round=first_round)
  if traits.needs_last_update:
    context.update(last_update=zeros)
  context_type = tff.to_type(
    collections.OrderedDict((name, fn.type_signature.result) for name, fn in context.items())
  )

  @tff.tensorflow.computation(
    memory_type,
    sender.value_type,
    weight_type,
    context_type,
    () if known_type is None else known_type,
  )
  def code_at_client(memory, value, weight, context, model):
    reference = codecs.Reference(
      model=None if known_type is None else tf.nest.flatten(model),
      last_update=tf.nest.flatten(context['last_update']) if traits.needs_last_update else None,
    )
    downlink = {}
    if traits.needs_last_update:
      downlink = dict(downlink=signs_price(value_type, context['round']))
    seeds = tf.stack([seed, context['round']])
    coded = sender.code(memory, value, weight, seeds, reference, **downlink)
    return coded.memory, coded.value, coded.weight, coded.report, coded.measurements

  @tff.federated_computation
  def initialize():
    placed = collections.OrderedDict(
      (name, tff.federated_eval(fn, tff.SERVER)) for name, fn in context.items()
    )
    return tff.federated_zip(collections.OrderedDict(placed, mean=mean_process.initialize()))

  def step(state, client_state, value, weight, model):
    # At clients.
    known = tff.federated_zip(collections.OrderedDict((name, state[name]) for name in context))
    client_state, value, weight, reports, measurements = tff.federated_map(
      code_at_client, (client_state, value, weight, tff.federated_broadcast(known), model)
    )
    # To the server.
    mean_output = mean_process.next(state['mean'], value, weight)
    # At the server.
    new_state = collections.OrderedDict(round=tff.federated_map(next_round, state['round']))
    if traits.needs_last_update:
      new_state.update(
        last_update=tff.federated_map(_last_finite, (state['last_update'], mean_output.result))
      )
    new_state.update(mean=mean_output.state)
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

  parameter_types = (
    initialize.type_signature.result,
    tff.FederatedType(memory_type, tff.CLIENTS),
    tff.FederatedType(sender.value_type, tff.CLIENTS),
    tff.FederatedType(weight_type, tff.CLIENTS),
  )
  if known_type is not None:
    next_fn = tff.federated_computation(
      step, *parameter_types, tff.FederatedType(known_type, tff.CLIENTS)
    )
  else:

    @tff.federated_computation(*parameter_types)
    def next_fn(state, client_state, value, weight):
      no_model = tff.federated_eval(client_stateful.no_memory, tff.CLIENTS)
      return step(state, client_state, value, weight, no_model)

  return client_stateful.ClientStatefulAggregationProcess(initialize, initialize_client, next_fn)


def checked_mean_factory(
  mean_factory: tff.aggregators.WeightedAggregationFactory | None,
) -> tff.aggregators.WeightedAggregationFactory:
  """`mean_factory`, or TFF's own if it is None; raises TypeError if it is something else."""
  if mean_factory is None:
    return tff.aggregators.MeanFactory()
  checks.check_type('mean_factory', mean_factory, tff.aggregators.WeightedAggregationFactory)
  return mean_factory


class CodedMeanFactory(client_stateful.ReportingFactory):
  """The weighted mean of updates compressed by a codec without memory.

  A standard factory, for `model_aggregator` of any `tff.learning.algorithms.build_*`. Receives
  a structure of floats at clients, passes the decoded values to an inner mean and returns its
  result. `code` and `is_accepted` say which clients are excluded.

  State: `round` (int32, seeds the codec), `mean` (the inner factory's).
  Measurements: `codec` (its means over clients), `summary` (`uplink_bits` and `downlink_bits`
  by kind, `dropped_clients`), `mean` (the inner factory's).
  """

  def __init__(
    self,
    codec: codecs.Codec | str,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
    *,
    seed: int = 0,
  ):
    """Creates the factory.

    Args:
      codec: A codec without memory, or its text for `codecs.parse`.
      mean_factory: Averages the decoded values; `tff.aggregators.MeanFactory()` if None.
      seed: Seeds, together with the round number, all randomness in the codec.

    Raises:
      TypeError: If an argument is of the wrong type.
      ValueError: If `codec` has memory, needs the model, or does not work with `mean_factory`.
    """
    codec = codecs.resolve(codec)
    if codec.traits.needs_model:
      raise ValueError(
        f'{codec} needs the weights that the client received, which a standard factory does not '
        'see. Use it through `learning.build_compressed_fed_avg`.'
      )
    if codec.has_memory:
      raise ValueError(
        f'Expected a codec without memory, found {codec!r}, which needs client state. Use it '
        'through `ClientStatefulCodedMeanFactory`.'
      )
    checks.check_type('seed', seed, int)
    self._codec = codec
    self._mean_factory = checked_mean_factory(mean_factory)
    legality.check_stack(codec, self._mean_factory)
    self._seed = seed

  def create_reporting(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    return create_process(self._codec, self._mean_factory, self._seed, value_type, weight_type)


class ClientStatefulCodedMeanFactory(client_stateful.ClientStatefulAggregationFactory):
  """The weighted mean of updates compressed by any codec; its memory is the client state.

  As `CodedMeanFactory`, but `next` also takes and returns each client's state, which starts as
  `codec.initial_memory`. LBGM is `ClientStatefulCodedMeanFactory(codecs.LookBack())`. State and
  measurements are the same, plus `last_update` in the state if the codec needs it. `next` takes
  the clients' model too if the codec needs it.
  """

  def __init__(
    self,
    codec: codecs.Codec | str,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
    *,
    seed: int = 0,
  ):
    """Creates the factory; the arguments are those of `CodedMeanFactory`, for any codec."""
    codec = codecs.resolve(codec)
    checks.check_type('seed', seed, int)
    self._codec = codec
    self._mean_factory = checked_mean_factory(mean_factory)
    legality.check_stack(codec, self._mean_factory)
    self._seed = seed

  def create(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    return create_process(self._codec, self._mean_factory, self._seed, value_type, weight_type)
