"""LBGM without client state: the server keeps one look-back vector for all clients."""

import collections
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.aggregators import client_stateful
from tff_lowrank.aggregators import coded_mean


def _broadcast_price(look_back: list[Any]) -> ledger.Price:
  """The cost of one flag per block and all look-back vectors: clients without state need all."""
  nothing = ledger.price()
  vectors = [
    ledger.select(kept['has'], ledger.dense_price(kept['look_back']), nothing) for kept in look_back
  ]
  return ledger.add(ledger.price(flag=ledger.FLAG_BITS * len(look_back)), *vectors)


class SharedLookBackFactory(client_stateful.ReportingFactory):
  """A drop-in LBGM for `model_aggregator` of any `tff.learning.algorithms.build_*`.

  Each round the server broadcasts its look-back vector l. For each block of its update x, a
  client sends the look-back coefficient `<x, l> / |l|^2` if the error is within the threshold,
  else the block in full. If any client sent a block in full, the look-back vector of that block
  becomes the round's aggregate.

  Unlike the paper's LBGM, where each client reuses its own last full update:
    * clients have no state, so this is a standard factory and fits cross-device use;
    * a client's update is compared with the average direction and not with its own, so on
      non-IID data fewer blocks are replaced by a coefficient at the same threshold;
    * the look-back vector costs downlink: one flag per block and 32 bits per number for every
      client in every round, since clients cannot keep it. The paper's LBGM has no such cost.

  Receives a structure of floats at clients. State: `look_back` (per block `has` and
  `look_back`) and `mean`. Measurements: as `CodedMeanFactory`'s.
  """

  def __init__(
    self,
    threshold: float = 0.2,
    granularity: str = 'tensor',
    mean_factory: tff.aggregators.WeightedAggregationFactory | None = None,
  ):
    """Creates the factory.

    Args:
      threshold: The largest relative squared error, in [0, 1], at which a coefficient is sent;
        0 is plain averaging.
      granularity: `'tensor'` decides for each tensor, `'model'` once for the whole model.
      mean_factory: Averages the decoded values; `tff.aggregators.MeanFactory()` if None.

    Raises:
      TypeError: If an argument is of the wrong type.
      ValueError: If the value of an argument is invalid.
    """
    self._codec = codecs.LookBack(threshold=threshold, granularity=granularity)
    self._mean_factory = coded_mean.checked_mean_factory(mean_factory)

  def create_reporting(
    self, value_type: tff.Type, weight_type: tff.Type
  ) -> client_stateful.ClientStatefulAggregationProcess:
    codec = self._codec
    mean_process = self._mean_factory.create(value_type, weight_type)

    @tff.tensorflow.computation
    def initial_look_back():
      return codec.initial_memory(tff.types.type_to_tf_tensor_specs(value_type))

    look_back_type = initial_look_back.type_signature.result

    @tff.tensorflow.computation(look_back_type, value_type, weight_type)
    def code_at_client(look_back, value, weight):
      seed = tf.zeros([2], tf.int32)  # Nothing in this codec is random.
      price = _broadcast_price(look_back)
      coded = coded_mean.code(codec, look_back, value, weight, seed, downlink=price)
      sent_in_full = tf.stack([sent['full'] for sent in coded.message])
      sent_in_full = tf.cast(sent_in_full & coded.report['accepted'], tf.int32)
      return coded.value, coded.weight, coded.report, coded.measurements, sent_in_full

    @tff.tensorflow.computation(
      look_back_type, value_type, tff.TensorType(tf.int32.as_numpy_dtype, [len(look_back_type)])
    )
    def renew(look_back, aggregate, num_full):
      blocks = codecs.codec.blocks_of(tf.nest.flatten(aggregate), codec.granularity)
      renewed = []
      for i, (block, kept) in enumerate(zip(blocks, look_back, strict=True)):
        fresh = (num_full[i] > 0) & structures.all_finite(block)
        renewed.append(
          collections.OrderedDict(
            has=kept['has'] | fresh,
            look_back=structures.select(fresh, block, kept['look_back']),
            older=kept['older'],
            inner=kept['inner'],
          )
        )
      return renewed

    @tff.federated_computation
    def initialize():
      look_back = tff.federated_eval(initial_look_back, tff.SERVER)
      state = collections.OrderedDict(look_back=look_back, mean=mean_process.initialize())
      return tff.federated_zip(state)

    @tff.federated_computation(
      initialize.type_signature.result,
      tff.FederatedType((), tff.CLIENTS),
      tff.FederatedType(value_type, tff.CLIENTS),
      tff.FederatedType(weight_type, tff.CLIENTS),
    )
    def next_fn(state, client_state, value, weight):
      # At clients.
      look_back = tff.federated_broadcast(state['look_back'])
      value, weight, reports, measurements, sent_in_full = tff.federated_map(
        code_at_client, (look_back, value, weight)
      )
      # To the server.
      mean_output = mean_process.next(state['mean'], value, weight)
      num_full = tff.federated_sum(sent_in_full)
      # At the server.
      look_back = tff.federated_map(renew, (state['look_back'], mean_output.result, num_full))
      new_state = collections.OrderedDict(look_back=look_back, mean=mean_output.state)
      measurements = collections.OrderedDict(
        codec=coded_mean.mean_measurements(measurements),
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

    return client_stateful.ClientStatefulAggregationProcess(
      initialize, client_stateful.no_memory, next_fn
    )
