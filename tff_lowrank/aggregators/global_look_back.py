"""LBGM at the last global updates, which clients know from the models that they were sent."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import codecs
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.aggregators import coded_mean
from tff_lowrank.aggregators import legality


class Updates(NamedTuple):
  """What clients know besides the model.

  updates: the last r global updates, each a value, the oldest first.
  exist: bool [r]; one that does not is of zeros, and comes before those that do.
  """

  updates: list[Any]
  exist: Any


def updates_type(value_type: tff.Type, vectors: int) -> tff.Type:
  """The type of `Updates`."""
  return tff.to_type(Updates([value_type] * vectors, (np.bool_, (vectors,))))


class GlobalLookBackFactory(client_stateful.ClientStatefulAggregationFactory):
  """The weighted mean of updates that look back at the last global ones.

  As `ClientStatefulCodedMeanFactory(codecs.LookBack(...))`, but that the look-back vectors are the
  same for all: the last `vectors` changes of the global model, whether or not anybody sent in full.
  A client remembers what its inner codec does. The process takes the vectors at the clients, as
  `Updates`; whoever drives it keeps them, and prices what clients must be sent to have them,
  as `learning.build_global_lbgm_fed_avg` does.
  """

  def __init__(
    self,
    codec: codecs.LookBack,
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
    *,
    seed: int = 0,
  ):
    """Creates the factory.

    Args:
      codec: How clients look back.
      mean_factory: Averages the decoded values; `tff.aggregators.MeanFactory()` if None.
      seed: Decides, with the round, all that is random in the inner codec.

    Raises:
      TypeError: If an argument is of the wrong type.
      ValueError: If `codec` does not go with `mean_factory`, or its inner codec needs the model.
    """
    checks.check_type('codec', codec, codecs.LookBack)
    checks.check_type('seed', seed, int)
    if codec.traits.needs_model:
      raise ValueError(f'{codec.inner} needs the weights of the model, which it is not given here.')
    self._codec = codec
    self._mean_factory = coded_mean.checked_mean_factory(mean_factory)
    legality.check_stack(codec, self._mean_factory)
    self._seed = seed

  def create(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    codec = self._codec
    known_type = updates_type(value_type, codec.vectors)
    specs = tff.types.type_to_tf_tensor_specs(value_type)
    num_tensors = len(tf.nest.flatten(specs))

    def initial_memory(value_spec: Any) -> list[Any]:
      return [kept['inner'] for kept in codec.initial_memory(value_spec)]

    def code(memory, value, weight, seed, reference):
      *tensors, exist = reference.model
      vectors = [tensors[i * num_tensors : (i + 1) * num_tensors] for i in range(codec.vectors)]
      whole = codec.memory_with(vectors, exist, memory)
      coded = coded_mean.code(codec, whole, value, weight, seed)
      return coded._replace(memory=[kept['inner'] for kept in coded.memory])

    sender = coded_mean.Sender(value_type, specs, code, known_type, initial_memory)
    return coded_mean.create_process(
      codec, self._mean_factory, self._seed, value_type, weight_type, sender
    )
