import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank.aggregators import client_stateful

VALUE = tff.to_type([(np.float32, (2,)), np.float32])
WEIGHT = tff.TensorType(np.float32)


def test_lifted_mean_is_the_mean():
  process = aggregators.lift(tff.aggregators.MeanFactory()).create(VALUE, WEIGHT)
  assert not process.has_client_state
  values = [[np.float32([1, 2]), np.float32(3)], [np.float32([5, 6]), np.float32(7)]]
  output = process.next(process.initialize(), [(), ()], values, [1.0, 3.0])
  np.testing.assert_array_equal(output.result[0], [4, 5])
  assert output.result[1] == 6
  # Three floats from each client.
  assert output.measurements['summary']['uplink_bits']['payload'] == 2 * 96
  assert [report['official_units'] for report in output.reports] == [3, 3]


@pytest.mark.parametrize('value, weight', [(np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0), (1.0, np.nan),
                                           (1.0, np.inf), (1.0, -1.0), (1e38, 10.0)])  # fmt: skip
def test_lifted_factory_leaves_clients_out(value, weight):
  process = aggregators.lift(tff.aggregators.MeanFactory()).create(VALUE, WEIGHT)
  values = [[np.float32([1, 2]), np.float32(3)], [np.float32([5, value]), np.float32(7)]]
  output = process.next(process.initialize(), [(), ()], values, [2.0, weight])
  np.testing.assert_array_equal(output.result[0], [1, 2])
  assert output.measurements['summary']['dropped_clients'] == 1
  assert [report['accepted'] for report in output.reports] == [True, False]
  assert sum(output.reports[1]['uplink'].values()) == 0


def test_lift_returns_stateful_factories_as_they_are_and_refuses_others():
  factory = aggregators.ClientStatefulCodedMeanFactory(codecs.LookBack())
  assert aggregators.lift(factory) is factory
  with pytest.raises(TypeError, match='found SumFactory'):
    aggregators.lift(tff.aggregators.SumFactory())


def test_process_with_client_memory_is_no_standard_process():
  process = aggregators.ClientStatefulCodedMeanFactory(codecs.LookBack()).create(VALUE, WEIGHT)
  assert process.has_client_state
  with pytest.raises(TypeError, match='found client state of type'):
    client_stateful.without_client_state(process)


def test_process_checks_that_types_fit():
  process = aggregators.ClientStatefulCodedMeanFactory(codecs.LookBack()).create(VALUE, WEIGHT)

  @tff.tensorflow.computation
  def other_memory():
    return collections.OrderedDict(a=tf.constant(1))

  with pytest.raises(tff.types.TypeNotAssignableError):
    aggregators.ClientStatefulAggregationProcess(process.initialize, other_memory, process.next)


@pytest.mark.parametrize(
  'factory',
  [
    aggregators.CodedMeanFactory(codecs.Identity()),
    aggregators.SharedLookBackFactory(),
  ],
)
def test_standard_factories_have_the_types_of_tffs_own(factory):
  process = factory.create(VALUE, WEIGHT)
  assert isinstance(process, tff.templates.AggregationProcess)
  assert process.is_weighted
  parameter = process.next.type_signature.parameter
  assert parameter[1] == tff.FederatedType(VALUE, tff.CLIENTS)
  assert parameter[2] == tff.FederatedType(WEIGHT, tff.CLIENTS)
  assert process.next.type_signature.result.result == tff.FederatedType(VALUE, tff.SERVER)
