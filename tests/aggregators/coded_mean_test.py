import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests import contract_test
from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank import testing
from tff_lowrank.aggregators import coded_mean

VALUE = tff.to_type(collections.OrderedDict(a=(np.float32, (3,)), b=np.float32))
WEIGHT = tff.TensorType(np.float32)


def value(a, b=1.0):
  return collections.OrderedDict(a=np.float32(a), b=np.float32(b))


class Negated(codecs.Identity):
  """A stateless codec whose decoded value differs from the value, to prove that it is used."""

  def decode(self, memory, message):
    return [-x for x in super().decode(memory, message)]

  def encode(self, memory, value, seed, reference=None):
    encoded = super().encode(memory, value, seed)
    one = tf.constant(1.0)
    return encoded._replace(
      measurements=collections.OrderedDict(
        round=(tf.cast(seed[1], tf.float32), one), seed=(tf.cast(seed[0], tf.float32), one)
      )
    )


class SumPlusOneFactory(tff.aggregators.WeightedAggregationFactory):
  """Adds 1 to the mean and reports 42, to prove that the inner factory is used."""

  def create(self, value_type, weight_type):
    mean = tff.aggregators.MeanFactory().create(value_type, weight_type)

    @tff.federated_computation(mean.next.type_signature.parameter)
    def next_fn(state, value, weight):
      output = mean.next(state, value, weight)
      add_one = tff.tensorflow.computation(lambda x: tf.nest.map_structure(lambda t: t + 1, x))
      result = tff.federated_map(add_one, output.result)
      return tff.templates.MeasuredProcessOutput(
        output.state, result, tff.federated_value(42, tff.SERVER)
      )

    return tff.templates.AggregationProcess(mean.initialize, next_fn)


def test_decoded_values_reach_the_inner_mean_and_seeds_follow_rounds():
  factory = aggregators.CodedMeanFactory(Negated(), SumPlusOneFactory(), seed=7)
  process = factory.create(VALUE, WEIGHT)
  state = process.initialize()
  for round_num in range(3):
    output = process.next(state, [value([1, 2, 3]), value([3, 4, 5])], [1.0, 1.0])
    state = output.state
    np.testing.assert_array_equal(output.result['a'], [-1, -2, -3])
    assert output.measurements['mean'] == 42
    assert output.measurements['codec'] == {'round': round_num, 'seed': 7}
  assert state['round'] == 3


def test_identity_is_tffs_mean_to_the_bit(rng):
  ours = aggregators.CodedMeanFactory(codecs.Identity()).create(VALUE, WEIGHT)
  theirs = tff.aggregators.MeanFactory().create(VALUE, WEIGHT)
  values = [value(rng.normal(size=3), rng.normal()) for _ in range(7)]
  weights = list(np.float32(rng.random(7)))
  a = ours.next(ours.initialize(), values, weights).result
  b = theirs.next(theirs.initialize(), values, weights).result
  np.testing.assert_array_equal(a['a'], b['a'])
  assert a['b'] == b['b']


def look_back_process(**settings):
  factory = aggregators.ClientStatefulCodedMeanFactory(codecs.LookBack(**settings))
  return factory.create(VALUE, WEIGHT)


def test_look_back_memory_stays_with_its_client():
  process = look_back_process(threshold=0.1)
  fresh = process.initialize_client()
  first = process.next(process.initialize(), [fresh, fresh], [value([1, 0, 0]), value([0, 2, 0])],
                       [1.0, 1.0])  # fmt: skip
  assert [report['uplink']['scalar'] for report in first.reports] == [0, 0]
  # Each client moves along its own first direction, so both recycle.
  second = process.next(first.state, first.client_state, [value([3, 0, 0]), value([0, -2, 0])],
                        [1.0, 3.0])  # fmt: skip
  np.testing.assert_allclose(second.result['a'], [0.75, -1.5, 0], rtol=1e-6)
  assert second.measurements['codec']['scalar_fraction'] == 1
  # Two flags and two scalars from each of two clients.
  assert dict(second.measurements['summary']['uplink_bits']) == dict(
    payload=0, index_or_mask=0, flag=4, scalar=128, catch_up=0
  )
  for before, after in zip(first.client_state, second.client_state, strict=True):
    tf.nest.map_structure(np.testing.assert_array_equal, before, after)
  # Now the second client's memory goes to the first one: nothing can be recycled.
  third = process.next(second.state, second.client_state[::-1],
                       [value([1, 0, 0]), value([0, 1, 0])], [1.0, 1.0])  # fmt: skip
  np.testing.assert_array_equal(third.measurements['codec']['scalar_fraction_by_block'], [0, 1])


@pytest.mark.parametrize('bad, weight', [(np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0)])
def test_left_out_client_keeps_its_memory_and_costs_nothing(bad, weight):
  process = look_back_process(threshold=0.1)
  fresh = process.initialize_client()
  start = process.next(process.initialize(), [fresh], [value([1, 0, 0])], [1.0])
  output = process.next(
    start.state, [start.client_state[0], fresh], [value([bad, 5, 0]), value([0, 0, 4])],
    [weight, 1.0],
  )  # fmt: skip
  np.testing.assert_array_equal(output.result['a'], [0, 0, 4])
  tf.nest.map_structure(
    np.testing.assert_array_equal, start.client_state[0], output.client_state[0]
  )
  assert bool(output.client_state[1][0]['has'])
  assert output.measurements['summary']['dropped_clients'] == 1
  assert sum(output.reports[0]['uplink'].values()) == 0
  # The measurements are of the other client alone.
  assert output.measurements['codec']['scalar_fraction'] == 0


HALF_AND_SINGLE = pytest.mark.parametrize('dtype', [np.float16, np.float32])


@pytest.mark.each_once
@HALF_AND_SINGLE
@pytest.mark.parametrize('text', contract_test.SOME_QUICK)
def test_what_a_codec_makes_infinite_is_left_out(text, dtype):
  """Updates near the largest float, in a row: a client is accepted if all it leads to is finite."""
  codec = codecs.parse(text)
  largest = np.float64(np.finfo(dtype).max)
  rng = np.random.default_rng(0)
  first = [tf.constant(rng.uniform(-1, 1, s) * largest, dtype) for s in ((6, 5), (5,))]
  memory = codec.initial_memory(structures.specs(first))
  reference = testing.reference_for(codec, first)
  for round_num, value in enumerate([first, [-x for x in first], first]):
    seed = tf.constant([0, round_num])
    coded = coded_mean.code(codec, memory, value, tf.constant(1.0), seed, reference)
    encoded = codec.encode(memory, value, seed, reference)
    results = codec.decode(memory, encoded.message), encoded.memory
    floats = [np.asarray(x) for x in tf.nest.flatten(results)]
    finite = all(np.isfinite(x).all() for x in floats if x.dtype.kind == 'f')
    assert bool(coded.report['accepted']) == finite
    assert all(np.isfinite(x).all() for x in coded.value)
    if not finite:
      assert not any(np.any(x) for x in coded.value)
      assert coded.weight == 0
      tf.nest.map_structure(np.testing.assert_array_equal, coded.memory, memory)
    memory = coded.memory


@pytest.mark.each_once
@HALF_AND_SINGLE
@pytest.mark.parametrize(
  'text', ['random_k(0.1)', 'error_feedback(top_k(0.1))', 'look_back(random_k(0.1))']
)
@pytest.mark.parametrize('weight, share', [(0.5, 0.9), (3.0, 0.5)])
def test_one_client_out_of_range_does_not_cost_the_round(text, dtype, weight, share):
  """By the codec's factor n / k, by a residual, or by the weight of the mean."""
  factory = aggregators.ClientStatefulCodedMeanFactory(codecs.parse(text))
  process = factory.create(tff.TensorType(dtype, [20]), WEIGHT)
  state, memory = process.initialize(), [process.initialize_client()] * 2
  huge = np.full(20, share * np.float64(np.finfo(dtype).max), dtype)
  dropped = 0
  for _ in range(3):
    output = process.next(state, memory, [huge, np.ones(20, dtype)], [weight, 1.0])
    assert np.isfinite(output.result).all()
    for before, after, report in zip(memory, output.client_state, output.reports, strict=True):
      if not report['accepted']:
        tf.nest.map_structure(np.testing.assert_array_equal, before, after)
    assert output.reports[1]['accepted']
    dropped += output.measurements['summary']['dropped_clients']
    state, memory = output.state, output.client_state
  assert dropped > 0


def test_two_processes_share_nothing():
  factory = aggregators.ClientStatefulCodedMeanFactory(codecs.LookBack())
  first, second = factory.create(VALUE, WEIGHT), factory.create(tff.to_type([np.float32]), WEIGHT)
  assert len(first.initialize_client()) == 2
  assert len(second.initialize_client()) == 1


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='ClientStatefulCodedMeanFactory'):
    aggregators.CodedMeanFactory(codecs.LookBack())
  with pytest.raises(TypeError, match='`codec` must be a `codecs.Codec`'):
    aggregators.CodedMeanFactory(0.1)
  with pytest.raises(TypeError, match='`mean_factory` must be'):
    aggregators.CodedMeanFactory(codecs.Identity(), tff.aggregators.SumFactory())
  with pytest.raises(TypeError, match='`seed` must be `int`'):
    aggregators.ClientStatefulCodedMeanFactory(codecs.Identity(), seed=0.5)
  with pytest.raises(TypeError, match='float'):
    aggregators.CodedMeanFactory(codecs.Identity()).create(tff.to_type([np.int32]), WEIGHT)


def test_a_round_in_which_nobody_agrees_leaves_the_last_update():
  process = aggregators.ClientStatefulCodedMeanFactory(codecs.CMFL(0.9)).create(VALUE, WEIGHT)
  state = process.initialize()
  for update, sends in (([1, 2, 3], 1), ([-1, -2, -3], 0), ([2, 1, 5], 1)):
    output = process.next(state, [()], [value(update, 1.0)], [1.0])
    state = output.state
    assert output.measurements['codec']['sends'] == sends
    np.testing.assert_array_equal(state['last_update']['a'], [1, 2, 3] if update[0] < 2 else update)
  # The signs of four numbers, five a byte, but not before the first aggregate.
  assert output.reports[0]['downlink']['payload'] == 8
