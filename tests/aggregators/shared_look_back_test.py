import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank.aggregators import client_stateful

VALUE = tff.to_type([(np.float32, (3,)), (np.float32, (2,))])
WEIGHT = tff.TensorType(np.float32)


def value(a, b):
  return [np.float32(a), np.float32(b)]


def test_recycles_along_the_last_full_aggregate():
  process = aggregators.SharedLookBackFactory(threshold=0.1).create(VALUE, WEIGHT)
  state = process.initialize()
  first = process.next(state, [value([1, 0, 0], [1, 1]), value([3, 0, 0], [1, 1])], [1.0, 1.0])
  np.testing.assert_array_equal(first.result[0], [2, 0, 0])
  bits = first.measurements['summary']
  # Ten floats and four flags up; down only the flags that say there is no vector yet.
  assert (bits['uplink_bits']['payload'], bits['uplink_bits']['flag']) == (320, 4)
  assert (bits['downlink_bits']['payload'], bits['downlink_bits']['flag']) == (0, 4)
  # First block: parallel to the aggregate [2, 0, 0]. Second: the first client turns away.
  second = process.next(
    first.state, [value([-4, 0, 0], [2, -2]), value([8, 0, 0], [3, 3])], [1.0, 3.0]
  )
  np.testing.assert_allclose(second.result[0], [5, 0, 0], rtol=1e-6)
  np.testing.assert_allclose(second.result[1], [2.75, 1.75], rtol=1e-6)
  bits = second.measurements['summary']
  # Three scalars and one block of two floats up; both vectors, five floats, to both clients.
  assert (bits['uplink_bits']['scalar'], bits['uplink_bits']['payload']) == (96, 64)
  assert bits['downlink_bits']['payload'] == 2 * 5 * 32
  # The vector of the first block stays, that of the second is the new aggregate.
  np.testing.assert_array_equal(second.state['look_back'][0]['look_back'][0], [2, 0, 0])
  np.testing.assert_array_equal(second.state['look_back'][1]['look_back'][0], second.result[1])


def test_threshold_zero_is_tffs_mean_to_the_bit(rng):
  ours = aggregators.SharedLookBackFactory(threshold=0.0).create(VALUE, WEIGHT)
  theirs = tff.aggregators.MeanFactory().create(VALUE, WEIGHT)
  state = ours.initialize()
  for _ in range(3):
    values = [value(rng.normal(size=3), rng.normal(size=2)) for _ in range(5)]
    weights = list(np.float32(rng.random(5)))
    output = ours.next(state, values, weights)
    state = output.state
    expected = theirs.next(theirs.initialize(), values, weights).result
    for a, b in zip(output.result, expected, strict=True):
      np.testing.assert_array_equal(a, b)


def test_a_round_without_clients_that_count_keeps_the_look_back_vector():
  process = aggregators.SharedLookBackFactory(threshold=0.1).create(VALUE, WEIGHT)
  first = process.next(process.initialize(), [value([1, 0, 0], [1, 1])], [1.0])
  second = process.next(first.state, [value([np.nan, 0, 0], [1, 1])], [1.0])
  np.testing.assert_array_equal(second.state['look_back'][0]['look_back'][0], [1, 0, 0])
  assert second.measurements['summary']['dropped_clients'] == 1


def test_works_in_tffs_own_fed_avg(rng):
  def keras_model():
    return tf.keras.Sequential([tf.keras.layers.InputLayer((4,)), tf.keras.layers.Dense(2)])

  model = tff.learning.models.functional_model_from_keras(
    keras_model(),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)),
  )
  sgd = tff.learning.optimizers.build_sgdm
  process = tff.learning.algorithms.build_weighted_fed_avg(
    model, sgd(0.1), model_aggregator=aggregators.SharedLookBackFactory(0.5)
  )
  x = np.float32(rng.normal(size=(12, 4)))
  data = [tf.data.Dataset.from_tensor_slices((x, np.int32(x[:, 0] > 0))).batch(12)] * 2
  state = process.initialize()
  fractions = []
  for _ in range(4):
    output = process.next(state, data)
    state = output.state
    fractions.append(output.metrics['aggregator']['codec']['scalar_fraction'])
  # The same full batch gives nearly the same gradient again.
  assert fractions[0] == 0 and fractions[-1] == 1


def test_granularity_model_decides_once():
  process = aggregators.SharedLookBackFactory(0.1, 'model').create(VALUE, WEIGHT)
  output = process.next(process.initialize(), [value([1, 0, 0], [1, 1])], [1.0])
  assert output.measurements['summary']['uplink_bits']['flag'] == 1
  assert len(output.state['look_back']) == 1


def test_reporting_process_reports_what_it_measures():
  process = aggregators.lift(aggregators.SharedLookBackFactory(0.1)).create(VALUE, WEIGHT)
  assert isinstance(process, client_stateful.ClientStatefulAggregationProcess)
  values = [value([1, 0, 0], [1, 1])] * 2
  output = process.next(process.initialize(), [(), ()], values, [1.0, 1.0])
  for direction in ('uplink', 'downlink'):
    total = output.measurements['summary'][f'{direction}_bits']
    for kind, bits in total.items():
      assert bits == sum(report[direction][kind] for report in output.reports)


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='`threshold`'):
    aggregators.SharedLookBackFactory(threshold=-0.1)
  with pytest.raises(TypeError, match='`mean_factory`'):
    aggregators.SharedLookBackFactory(mean_factory=tff.aggregators.SumFactory())
