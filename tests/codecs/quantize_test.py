import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import quantize


def draws(codec, x, count=400):
  """[count, ...]: decoded values over seeds."""
  decode = tf.function(lambda seed: codec.decode((), codec.encode((), [x], seed).message)[0])
  return np.stack([decode(tf.constant([0, i])).numpy() for i in range(count)])


def test_qsgd_draws_the_two_levels_around_a_number_by_its_place_between_them(rng):
  x = rng.normal(size=20).astype(np.float32)
  norm, s = np.linalg.norm(x), 4
  found = draws(codecs.QSGD(s), tf.constant(x), 2000) / norm * s
  place = x / norm * s  # Eq. 2: level l or l + 1 with l <= |place| < l + 1.
  low, high = np.floor(place), np.ceil(place)
  np.testing.assert_allclose(found, np.round(found), atol=1e-4)
  assert ((np.round(found) == low) | (np.round(found) == high)).all()
  share_up = (np.round(found) == high).mean(0)
  np.testing.assert_allclose(share_up, place - low, atol=5 * 0.5 / np.sqrt(2000))
  # Lemma 3.1: the variance is at most min(n / s^2, sqrt(n) / s) |x|^2.
  error = ((found / s - x / norm) ** 2).sum(1).mean()
  assert error <= min(20 / s**2, np.sqrt(20) / s)


def test_nearest_level_and_max_norm():
  x = np.float32([0.9, -0.6, 0.2, 1.0, -0.1])
  codec = codecs.QSGD(2, 'max', stochastic=False)
  message = codec.encode((), [x], codec_cases.SEED).message
  np.testing.assert_allclose(codec.decode((), message)[0], [1, -0.5, 0, 1, 0])
  # Five values a number: 3 numbers in 7 bits (125 of 128), so 14, and the norm.
  assert int(codec.message_bits(message)) == 2 * 7 + 32


def test_clients_round_alike_only_if_they_are_alike(rng):
  codec = codecs.QSGD(1)
  a = rng.normal(size=50).astype(np.float32)

  def levels(x):
    return codec.encode((), [x], codec_cases.SEED).message[0].levels

  np.testing.assert_array_equal(levels(a), levels(a))
  # With one noise for both, they would round together.
  nudged = a.copy()
  nudged[0] *= 1.0001
  assert (np.asarray(levels(a)) != np.asarray(levels(nudged))).any()


def test_terngrad_by_its_definition(rng):
  x = rng.normal(size=30).astype(np.float32)
  found = draws(codecs.TernGrad(), tf.constant(x), 2000)
  largest = np.abs(x).max()
  assert set(np.unique(found / largest)) <= {-1, 0, 1}
  assert (found * x >= 0).all()
  np.testing.assert_allclose((found != 0).mean(0), np.abs(x) / largest, atol=0.06)
  clipped = draws(codecs.TernGrad(1.0), tf.constant(x), 50)
  deviation = np.sqrt((np.float64(x) ** 2).mean())
  np.testing.assert_allclose(np.abs(clipped).max(), deviation, rtol=1e-6)
  message = codecs.TernGrad().encode((), [x], codec_cases.SEED).message
  assert int(codecs.TernGrad().message_bits(message)) == 6 * 8 + 32


def test_float16():
  x = np.float32([1.0, 1 / 3, -1e6, 1e-9])
  message = codecs.Float16().encode((), [x], codec_cases.SEED).message
  got = codecs.Float16().decode((), message)[0]
  np.testing.assert_array_equal(got, np.float32([1.0, np.float16(1 / 3), -65504, 0]))
  assert int(codecs.Float16().message_bits(message)) == 64


def test_fedpaq_halves_the_uplink_of_any_model(rng):
  value = [rng.normal(size=s).astype(np.float32) for s in ((7, 3), (3,))]
  codec = codecs.Float16()
  bits = codec.message_bits(codec.encode((), value, codec_cases.SEED).message)
  assert 2 * int(bits) == 32 * 24


@pytest.mark.parametrize('radix, group', [(3, (5, 8)), (2, (1, 1)), (5, (3, 7)), (255, (1, 8))])
def test_symbol_groups(radix, group):
  assert quantize.symbol_group(radix) == group


def test_symbols_round_trip(rng):
  for radix in (2, 3, 5, 9, 100, 255, 2**16 + 1):
    for count in (0, 1, 17):
      symbols = rng.integers(0, radix, count)
      writer = bit_stream.BitWriter()
      quantize.write_symbols(writer, symbols, radix)
      assert writer.num_bits == quantize.symbol_bits(count, radix)
      reader = bit_stream.BitReader(writer.to_bytes())
      np.testing.assert_array_equal(quantize.read_symbols(reader, count, radix), symbols)
      reader.finish()


@pytest.mark.parametrize('settings', [dict(levels=0), dict(levels=10**6), dict(norm='l1'),
                                      dict(stochastic=1)])  # fmt: skip
def test_refuses_impossible_settings(settings):
  with pytest.raises((TypeError, ValueError), match=next(iter(settings))):
    codecs.QSGD(**settings)
