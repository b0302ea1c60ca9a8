import numpy as np

from tests.codecs import codec_cases
from tff_lowrank import codecs


def decode(codec, value):
  message = codec.encode((), value, codec_cases.SEED).message
  return [np.asarray(x) for x in codec.decode((), message)], message


def test_signs_with_zero_as_plus_one():
  got, message = decode(codecs.SignSGD(), [np.float32([3, 0, -0.0, -2]), np.float32(-7)])
  assert [x.tolist() for x in got] == [[1, 1, 1, -1], -1]
  assert int(codecs.SignSGD().message_bits(message)) == 5
  assert int(codecs.SignSGD().official_units(message)) == 5
  # 1110 0, and three bits of padding.
  assert codecs.SignSGD().pack(message) == bytes([0b11100000])


def test_scaled_by_the_mean_magnitude(rng):
  x = rng.normal(size=(5, 7)).astype(np.float32)
  (got,), message = decode(codecs.SignSGD(scaled=True), [x])
  np.testing.assert_allclose(got, np.sign(x) * np.abs(x).mean(), rtol=1e-6)
  assert int(codecs.SignSGD(scaled=True).message_bits(message)) == 35 + 32


def test_look_back_never_pays_more_than_the_signs():
  # A look-back coefficient costs 32 bits: 10 signs are cheaper, and 100 are not.
  codec = codecs.LookBack(codecs.SignSGD(), threshold=1.0)
  value = [np.ones(10, np.float32), np.ones(100, np.float32)]
  memory = codec.initial_memory([np.zeros(10, np.float32), np.zeros(100, np.float32)])
  first = codec.encode(memory, value, codec_cases.SEED)
  second = codec.encode(first.memory, value, codec_cases.SEED)
  assert [bool(sent['full']) for sent in second.message] == [True, False]
  assert int(codec.message_bits(second.message)) == 1 + 10 + 1 + 32
