import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank.aggregators import partial_mean

VALUE = tff.to_type(collections.OrderedDict(a=(np.float32, (4,)), b=np.float32))
WEIGHT = tff.TensorType(np.float32)


def value(x):
  return collections.OrderedDict(a=np.float32(x[:4]), b=np.float32(x[4]))


def flat(structure):
  return np.concatenate([np.ravel(structure['a']), np.ravel(structure['b'])])


def test_partial_mean_by_hand():
  mask_type = partial_mean.mask_type(freezing.Settings(), VALUE)
  process = partial_mean.create_partial_mean(
    tff.aggregators.MeanFactory(), VALUE, mask_type, WEIGHT
  )
  frozen = [tf.constant([True, False, False, True]), tf.constant(False)]
  mask = partial_mean.describe(frozen, value([0] * 5))
  assert (mask.active_bits, mask.num_active) == (96, 3)
  partial = [partial_mean.PartialUpdate(value(x), mask) for x in ([1, 2, 3, 4, 5], [9, 4, 5, 9, 7])]
  output = process.next(process.initialize(), [(), ()], partial, [1.0, 3.0])
  np.testing.assert_array_equal(flat(output.result), [0, 3.5, 4.5, 0, 6.5])
  assert [r['uplink']['payload'] for r in output.reports] == [96, 96]


def random_mask(rng):
  frozen = [rng.random(4) < 0.4, np.bool_(rng.random() < 0.4)]
  return partial_mean.Mask(frozen, np.int64(0), np.int64(0))


QUICK = (
  'identity', 'float16', 'qsgd(7)', 'top_k(0.5)', 'top_k(2, qsgd(3))', 'random_k(0.5)',
  'error_feedback(top_k(0.5))', 'look_back(error_feedback(top_k(0.5)), 0.9, model)',
  'look_back(top_k(0.5), 0.3, vectors=2, predictive=True)', 'ef21(top_k(0.5))',
  'sparse_ternary(0.5)',
)  # fmt: skip
# Of the same kinds and nestings.
MORE = (
  'sign_sgd', 'terngrad(2.0)', 'top_k(0.5, granularity=model)', 'look_back(threshold=0.9)',
  'error_feedback(look_back(top_k(1), 0.9))', 'error_feedback(sparse_ternary(2))',
  'look_back(threshold=0.5, granularity=model, vectors=3)',
)  # fmt: skip


@pytest.mark.parametrize(
  'text', [*QUICK, *(pytest.param(text, marks=pytest.mark.slow) for text in MORE)]
)
def test_coded_active_coordinates_are_those_of_a_shorter_model(rng, text):
  codec = codecs.parse(text)
  settings = freezing.Settings()
  process = partial_mean.create_coded_partial_mean(
    codec, tff.aggregators.MeanFactory(), 3, VALUE,
    partial_mean.mask_type(settings, VALUE), WEIGHT,
  )  # fmt: skip
  state, memory = process.initialize(), process.initialize_client()
  kept = codec.initial_memory([tf.TensorSpec([4]), tf.TensorSpec([1])])
  base = rng.normal(size=5)
  for number in range(5):
    update = (base + 0.1 * rng.normal(size=5)).astype(np.float32)
    mask = random_mask(rng)
    partial = partial_mean.PartialUpdate(value(update), mask)
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
