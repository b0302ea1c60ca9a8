import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank import structures


def reference_top_k(x, k):
  """Keeps the k largest magnitudes, of equal ones the first, from the definition."""
  flat = np.ravel(x)
  order = sorted(range(flat.size), key=lambda i: (-abs(flat[i]), i))
  kept = np.zeros_like(flat)
  kept[order[:k]] = flat[order[:k]]
  return kept.reshape(np.shape(x))


def decoded(codec, value, seed=codec_cases.SEED):
  message = codec.encode((), value, seed).message
  return [np.asarray(x) for x in codec.decode((), message)], message


@pytest.mark.parametrize('amount, shape, k', [
  (0.1, (37,), 3), (0.1, (3,), 1), (0.29, (10, 10), 29), (1.0, (4, 3), 12), (5, (4, 3), 5),
  (50, (4, 3), 12),
])  # fmt: skip
def test_keeps_the_largest(rng, amount, shape, k):
  x = rng.integers(-9, 10, shape).astype(np.float32)  # With equal magnitudes.
  (got,), message = decoded(codecs.TopK(amount), [x])
  np.testing.assert_array_equal(got, reference_top_k(x, k))
  assert message.indices[0].shape == (k,)


@pytest.mark.parametrize('dtype', [np.float16, np.float32, np.float64])
def test_keeps_the_largest_of_every_float(dtype, rng):
  # Over the whole range, with zeros of both signs, and all over again for ties.
  x = rng.normal(size=300) * 10.0 ** rng.integers(*np.log10([np.finfo(dtype).tiny, 1]), 300)
  x = np.concatenate([x, -x, [0.0, -0.0], x]).astype(dtype)
  for k in (1, 2, 3, 450, 899, 901, 902):
    (got,), message = decoded(codecs.TopK(k), [x])
    np.testing.assert_array_equal(got, reference_top_k(x, k))
    indices = np.asarray(message.indices[0])
    assert len(indices) == k and (np.diff(indices) > 0).all()


def test_of_all_tensors_together(rng):
  value = [np.float32([5, 1]), np.float32([[3, -4]]), np.float32(-6)]
  got, _ = decoded(codecs.TopK(3, granularity='model'), value)
  assert [x.tolist() for x in got] == [[5, 0], [[0, -4]], -6]
  # 10 % of each tensor is at least one number of each.
  got, _ = decoded(codecs.TopK(0.1), value)
  assert [x.tolist() for x in got] == [[5, 0], [[0, -4]], -6]


def test_price_by_hand():
  # 2 of 16 numbers: 64 bits of values; indices 5 and 12 in fixed width cost 8 bits, as a bitmap
  # 16; Rice has b = 2 (9/13 * 16 = 11, 11 // 2 = 5): gaps 5 and 6 give 1 + 1 + 2 * 3 = 8, not
  # less. One bit says which.
  x = np.zeros(16, np.float32)
  x[[5, 12]] = 1, -2
  codec = codecs.TopK(2)
  _, message = decoded(codec, [x])
  price = codec.message_price(message)
  assert (int(price['payload']), int(price['index_or_mask'])) == (64, 9)
  assert int(codec.official_units(message)) == 2


def test_quantised_values(rng):
  x = rng.normal(size=100).astype(np.float32)
  (got,), message = decoded(codecs.TopK(10, codecs.SignSGD(scaled=True)), [x])
  kept = reference_top_k(x, 10)
  expected = np.sign(kept) * np.abs(kept).sum() / 10
  np.testing.assert_allclose(got, expected, rtol=1e-6)
  price = codecs.TopK(10, codecs.SignSGD(scaled=True)).message_price(message)
  assert (int(price['payload']), int(price['scalar'])) == (10, 32)


def test_random_k_is_the_same_for_all_clients_and_differs_by_round(rng):
  a, b = (rng.normal(size=50).astype(np.float32) for _ in range(2))
  codec = codecs.RandomK(5)
  (x,), message = decoded(codec, [a], tf.constant([3, 1]))
  (y,), _ = decoded(codec, [b], tf.constant([3, 1]))
  (z,), _ = decoded(codec, [a], tf.constant([3, 2]))
  assert np.count_nonzero(x) == 5
  np.testing.assert_array_equal(x != 0, y != 0)
  assert ((x != 0) != (z != 0)).any()
  np.testing.assert_allclose(x[x != 0], 10 * a[x != 0], rtol=1e-6)
  # The seed and five floats.
  assert int(codec.message_bits(message)) == 64 + 5 * 32
  (unscaled,), _ = decoded(codecs.RandomK(5, rescale=False), [a], tf.constant([3, 1]))
  np.testing.assert_array_equal(unscaled[x != 0], a[x != 0])


def test_random_k_draws_every_place_alike(rng):
  codec, counts = codecs.RandomK(0.25), np.zeros(8)
  draw = tf.function(lambda seed: codec.encode((), [tf.ones(8)], seed).message.indices[0])
  for i in range(2000):
    counts[draw(tf.constant([0, i])).numpy()] += 1
  # Binomial(2000, 1/4): deviation 19.4.
  assert np.abs(counts - 500).max() < 5 * 19.4


def test_weights_of_several_dtypes():
  value = [np.float32([1, -3]), np.float64([2])]
  got, _ = decoded(codecs.TopK(1, granularity='model'), value)
  assert [x.tolist() for x in got] == [[0, -3], [0]]
  assert [x.dtype for x in got] == [np.float32, np.float64]
  got, _ = decoded(codecs.TopK(1), value)
  assert [x.tolist() for x in got] == [[0, -3], [2]]
  assert [x.dtype for x in got] == [np.float32, np.float64]


@pytest.mark.parametrize('amount', [0.0, 1.5, 0, -3, float('nan')])
def test_refuses_impossible_amounts(amount):
  with pytest.raises(ValueError, match='amount'):
    codecs.TopK(amount)


@pytest.mark.parametrize('inner', [codecs.LookBack(), codecs.Gaia(), codecs.CMFL()])
def test_refuses_memory_inside(inner):
  with pytest.raises(ValueError, match=f'{inner.name}.* cannot compress the values inside top_k'):
    codecs.TopK(0.1, inner)


def test_spec_of_nested_value(rng):
  value = {'b': np.float32([1, 2]), 'a': np.float32([[3]])}
  codec = codecs.TopK(1)
  message = codec.encode((), value, codec_cases.SEED).message
  arrived = codec.unpack(codec.pack(message), structures.specs(value))
  assert [np.asarray(x).tolist() for x in codec.decode((), arrived)] == [[[3]], [0, 2]]
