import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.freezing import numpy_apf
from tff_lowrank import aggregators
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank.aggregators import freezing as freezing_aggregators

VALUE = tff.to_type(collections.OrderedDict(a=(np.float32, (4,)), b=np.float32))
WEIGHT = tff.TensorType(np.float32)
FAST = freezing.Settings(stability_threshold=0.45, ema_decay=0.5)


def value(x):
  return collections.OrderedDict(a=np.float32(x[:4]), b=np.float32(x[4]))


def flat(structure):
  return np.concatenate([np.ravel(structure['a']), np.ravel(structure['b'])])


class PlusOne(tff.aggregators.WeightedAggregationFactory):
  """Adds 1 to the mean and reports 42, to prove that the inner factory is used."""

  def create(self, value_type, weight_type):
    mean = tff.aggregators.MeanFactory().create(value_type, weight_type)
    add_one = tff.tensorflow.computation(lambda x: tf.nest.map_structure(lambda t: t + 1, x))

    @tff.federated_computation(mean.next.type_signature.parameter)
    def next_fn(state, value, weight):
      output = mean.next(state, value, weight)
      return tff.templates.MeasuredProcessOutput(
        output.state,
        tff.federated_map(add_one, output.result),
        tff.federated_value(42, tff.SERVER),
      )

    return tff.templates.AggregationProcess(mean.initialize, next_fn)


def test_types():
  process = aggregators.FreezingFactory().create(VALUE, WEIGHT)
  assert isinstance(process, tff.templates.AggregationProcess)
  assert process.next.type_signature.result.result == tff.FederatedType(VALUE, tff.SERVER)
  state = process.next.type_signature.result.state
  process.initialize.type_signature.result.check_equivalent_to(state)


@pytest.mark.parametrize('check_every', [1, 2])
def test_equals_the_equations(rng, check_every):
  settings = freezing.Settings(stability_threshold=0.45, ema_decay=0.5, check_every=check_every)
  process = aggregators.FreezingFactory(settings).create(VALUE, WEIGHT)
  reference = numpy_apf.NumpyApf(5, 0.45, 0.5)
  state, total, seen = process.initialize(), np.zeros(5), set()
  for round_num in range(16):
    updates = rng.integers(-3, 4, (2, 5)).astype(np.float32)
    frozen = reference.frozen
    output = process.next(state, [value(u) for u in updates], [1.0, 3.0])
    state = output.state
    mean = np.where(frozen, 0, (updates[0] + 3 * updates[1]) / 4)
    np.testing.assert_array_equal(flat(output.result), mean)
    # Each of two clients sends its active floats and was sent the mask, of five by indices of
    # 3 bits or as a bitmap.
    summary, num_frozen = output.measurements['summary'], int(frozen.sum())
    assert summary['uplink_bits']['payload'] == 2 * 32 * (5 - num_frozen)
    assert summary['downlink_bits']['index_or_mask'] == 2 * min(5, 3 * num_frozen)
    total += mean
    if (round_num + 1) % check_every == 0:
      reference.check(-total)
      total = np.zeros(5)
    measured = output.measurements['freezing']
    np.testing.assert_allclose(measured['frozen_fraction'], reference.frozen.mean(), rtol=1e-6)
    assert measured['stability_threshold'] == np.float32(reference.T)
    seen.add(num_frozen)
  assert len(seen) > 1


def test_threshold_zero_is_the_inner_mean_to_the_bit(rng):
  process = aggregators.FreezingFactory(freezing.Settings(0)).create(VALUE, WEIGHT)
  theirs = tff.aggregators.MeanFactory().create(VALUE, WEIGHT)
  state = process.initialize()
  for _ in range(4):
    values = [value(rng.normal(size=5)) for _ in range(3)]
    weights = list(np.float32(rng.random(3)))
    output = process.next(state, values, weights)
    state = output.state
    expected = theirs.next(theirs.initialize(), values, weights).result
    np.testing.assert_array_equal(flat(output.result), flat(expected))
    assert output.measurements['summary']['uplink_bits']['payload'] == 3 * 160
    assert output.measurements['summary']['downlink_bits']['index_or_mask'] == 0


def test_inner_factory_is_used_but_frozen_coordinates_stay_zero():
  process = aggregators.FreezingFactory(freezing.Settings(2.0, control='permanent'), PlusOne())
  process = process.create(VALUE, WEIGHT)
  first = process.next(process.initialize(), [value([1, 2, 3, 4, -1])], [1.0])
  np.testing.assert_array_equal(flat(first.result), [2, 3, 4, 5, 0])
  assert first.measurements['mean']['mean'] == 42
  # All but the one whose aggregate was 0 are now frozen, for good.
  second = process.next(first.state, [value([1, 1, 1, 1, 1])], [1.0])
  np.testing.assert_array_equal(flat(second.result), [0, 0, 0, 0, 2])
  third = process.next(second.state, [value([1, 1, 1, 1, 1])], [1.0])
  np.testing.assert_array_equal(flat(third.result), np.zeros(5))
  assert third.measurements['freezing']['frozen_fraction'] == 1
  assert third.measurements['summary']['uplink_bits']['payload'] == 0
  # Halved at the second and the third check: 80 % were not enough.
  assert third.measurements['freezing']['stability_threshold'] == 0.5


@pytest.mark.parametrize('bad, weight', [(np.nan, 1.0), (np.inf, 1.0), (1.0, 0.0)])
def test_client_that_is_left_out(bad, weight):
  process = aggregators.lift(aggregators.FreezingFactory(FAST)).create(VALUE, WEIGHT)
  good, other = value([1, 2, 3, 4, 5]), value([bad, 2, 3, 4, 5])
  output = process.next(process.initialize(), [(), ()], [good, other], [1.0, weight])
  np.testing.assert_array_equal(flat(output.result), [1, 2, 3, 4, 5])
  assert [bool(r['accepted']) for r in output.reports] == [True, False]
  assert [r['uplink']['payload'] for r in output.reports] == [160, 0]
  assert [r['official_units'] for r in output.reports] == [5, 0]


def test_round_without_clients_that_count_is_no_round():
  process = aggregators.FreezingFactory(FAST).create(VALUE, WEIGHT)
  first = process.next(process.initialize(), [value([1, 2, 3, 4, 5])], [1.0])
  second = process.next(first.state, [value([np.nan, 2, 3, 4, 5])], [1.0])
  for a, b in zip(
    tf.nest.flatten(first.state['freezing']), tf.nest.flatten(second.state['freezing']), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert second.measurements['summary']['dropped_clients'] == 1


def test_a_codec_is_given_the_active_coordinates_alone():
  # Threshold 0.45: all that moves back and forth is frozen after the second round.
  factory = aggregators.FreezingFactory(FAST, codec=codecs.SignSGD(scaled=True))
  process = factory.create_reporting(VALUE, WEIGHT)
  state, updates = process.initialize(), [[1, -2, 4, 3, 1], [1, -2, -4, -3, 1], [1, -3, 7, 5, -2]]
  for update in updates:
    frozen = freezing.frozen_mask(FAST, state['freezing'])
    output = process.next(state, [()], [value(update)], [1.0])
    state = output.state
  active = ~np.concatenate([np.ravel(m) for m in frozen])
  assert active.tolist() == [True, True, False, False, True]
  # The mean magnitude of the two active numbers of `a`, and that of `b`.
  np.testing.assert_allclose(flat(output.result), [2, -2, 0, 0, -2])
  assert sum(output.reports[0]['uplink'].values()) == 3 + 2 * 32


def random_mask(rng):
  frozen = [rng.random(4) < 0.4, np.bool_(rng.random() < 0.4)]
  return freezing_aggregators.Mask(frozen, np.int64(0), np.int64(0))


@pytest.mark.parametrize('text', [
  'identity', 'float16', 'sign_sgd', 'qsgd(7)', 'terngrad(2.0)', 'top_k(0.5)', 'top_k(2, qsgd(3))',
  'top_k(0.5, granularity=model)', 'random_k(0.5)', 'error_feedback(top_k(0.5))',
  'look_back(threshold=0.9)', 'look_back(error_feedback(top_k(0.5)), 0.9, model)',
  'error_feedback(look_back(top_k(1), 0.9))',
  'look_back(threshold=0.5, granularity=model, vectors=3)',
  'look_back(top_k(0.5), 0.3, vectors=2, predictive=True)', 'ef21(top_k(0.5))',
  'sparse_ternary(0.5)', 'error_feedback(sparse_ternary(2))',
])  # fmt: skip
def test_coded_active_coordinates_are_those_of_a_shorter_model(rng, text):
  codec = codecs.parse(text)
  settings = freezing.Settings()
  process = freezing_aggregators.create_coded_partial_mean(
    codec, tff.aggregators.MeanFactory(), 3, VALUE,
    freezing_aggregators.mask_type(settings, VALUE), WEIGHT,
  )  # fmt: skip
  state, memory = process.initialize(), process.initialize_client()
  kept = codec.initial_memory([tf.TensorSpec([4]), tf.TensorSpec([1])])
  base = rng.normal(size=5)
  for number in range(5):
    update = (base + 0.1 * rng.normal(size=5)).astype(np.float32)
    mask = random_mask(rng)
    partial = freezing_aggregators.PartialUpdate(value(update), mask)
    output = process.next(state, [memory], [partial], [1.0])
    state, memory = output.state, output.client_state[0]
    # The same on vectors cut by NumPy, whose memory is cut and put back by hand.
    places = [np.flatnonzero(~np.ravel(m)) for m in mask.frozen]
    cut = [np.ravel(x)[p] for x, p in zip([update[:4], update[4]], places, strict=True)]
    short = codec.map_memory(lambda i, v, places=places: tf.gather(v, places[i]), kept)
    encoded = codec.encode(short, cut, tf.constant([3, number]))
    decoded = codec.decode(short, encoded.message)

    def put(i, before, active, places=places):
      whole = np.array(before)
      whole[places[i]] = active
      return tf.constant(whole)

    kept = codec.map_memory(put, kept, encoded.memory)
    expected = np.zeros(5)
    for start, place, vector in zip((0, 4), places, decoded, strict=True):
      expected[start + place] = vector
    np.testing.assert_allclose(flat(output.result), expected, rtol=1e-6)
    for a, b in zip(tf.nest.flatten(memory), tf.nest.flatten(kept), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-6)
    # The price is that of the packed message of the shorter model.
    bits = sum(int(b) for b in output.reports[0]['uplink'].values())
    assert 0 <= 8 * len(codec.pack(encoded.message)) - bits < 8


@pytest.mark.parametrize('text', [
  'truncated_svd', 'power_sgd', 'drive', 'top_k(0.1, drive)', 'gaia', 'cmfl', 'look_back(atomo)',
])  # fmt: skip
def test_refuses_codecs_that_need_the_whole_tensor(text):
  with pytest.raises(ValueError, match='does not go with freezing'):
    aggregators.FreezingFactory(codec=codecs.parse(text))


def test_a_standard_factory_takes_codecs_without_memory():
  with pytest.raises(ValueError, match='look_back has memory.*build_apf_fed_avg'):
    aggregators.FreezingFactory(codec=codecs.LookBack())


def test_works_in_tffs_own_algorithms(rng):
  model = tff.learning.models.functional_model_from_keras(
    tf.keras.Sequential([tf.keras.layers.InputLayer((4,)), tf.keras.layers.Dense(2)]),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)),
  )
  sgd = tff.learning.optimizers.build_sgdm
  x = np.float32(rng.normal(size=(12, 4)))
  data = [tf.data.Dataset.from_tensor_slices((x, np.int32(x[:, 0] > 0))).batch(3)] * 2
  factory = aggregators.FreezingFactory(freezing.Settings(0.9, ema_decay=0.5))
  algorithms = tff.learning.algorithms
  for build in (algorithms.build_weighted_fed_avg, algorithms.build_fed_sgd):
    process = build(model, sgd(2.0), model_aggregator=factory)
    state, frozen = process.initialize(), None
    for _ in range(8):
      before = process.get_model_weights(state).trainable
      output = process.next(state, data)
      state = output.state
      after = process.get_model_weights(state).trainable
      if frozen is not None:
        for mask, a, b in zip(frozen, before, after, strict=True):
          np.testing.assert_array_equal(np.asarray(a)[mask], np.asarray(b)[mask])
      kept = state.aggregator['freezing']
      frozen = [np.asarray(u) > int(kept.round) for u in kept.wake]
    assert any(f.any() for f in frozen)


def test_partial_mean_by_hand():
  mask_type = freezing_aggregators.mask_type(freezing.Settings(), VALUE)
  process = freezing_aggregators.create_partial_mean(
    tff.aggregators.MeanFactory(), VALUE, mask_type, WEIGHT
  )
  frozen = [tf.constant([True, False, False, True]), tf.constant(False)]
  mask = freezing_aggregators.describe(frozen, value([0] * 5))
  assert (mask.active_bits, mask.num_active) == (96, 3)
  partial = [
    freezing_aggregators.PartialUpdate(value(x), mask) for x in ([1, 2, 3, 4, 5], [9, 4, 5, 9, 7])
  ]
  output = process.next(process.initialize(), [(), ()], partial, [1.0, 3.0])
  np.testing.assert_array_equal(flat(output.result), [0, 3.5, 4.5, 0, 6.5])
  assert [r['uplink']['payload'] for r in output.reports] == [96, 96]


def test_mask_of_whole_tensors():
  settings = freezing.Settings(2.0, granularity='tensor', control='permanent')
  whole = freezing_aggregators.mask_type(settings, VALUE)
  assert whole.frozen == tff.to_type([np.bool_, np.bool_])
  process = aggregators.FreezingFactory(settings).create(VALUE, WEIGHT)
  first = process.next(process.initialize(), [value([1, 2, 3, 4, 0])], [1.0])
  second = process.next(first.state, [value([1, 2, 3, 4, 5])], [1.0])
  np.testing.assert_array_equal(flat(second.result), [0, 0, 0, 0, 5])
  # One float up; one of two tensors is frozen: a bit.
  assert second.measurements['summary']['uplink_bits']['payload'] == 32
  assert second.measurements['summary']['downlink_bits']['index_or_mask'] == 1


def test_refuses_bad_arguments():
  with pytest.raises(TypeError, match='`settings` must be `Settings`'):
    aggregators.FreezingFactory(0.05)
  with pytest.raises(TypeError, match='`mean_factory` must be'):
    aggregators.FreezingFactory(mean_factory=tff.aggregators.SumFactory())
  with pytest.raises(TypeError, match='floating dtype'):
    aggregators.FreezingFactory().create(tff.to_type([np.int32]), WEIGHT)
