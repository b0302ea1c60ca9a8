from hypothesis import given
import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs

CODEC = codecs.Identity()


@given(codec_cases.VALUES)
def test_round_trip_and_price(value):
  message, decoded = codec_cases.assert_price_is_packed_length(CODEC, (), value)
  for x, y in zip(value, decoded, strict=True):
    np.testing.assert_array_equal(x, y)
  numbers = sum(x.size for x in value)
  assert int(CODEC.message_bits(message)) == 32 * numbers
  assert int(CODEC.official_units(message)) == numbers


def test_nested_values_are_flattened_in_order():
  value = {'b': tf.constant([3.0]), 'a': (tf.constant([1.0]), tf.constant([2.0]))}
  encoded = CODEC.encode((), value, codec_cases.SEED)
  np.testing.assert_array_equal(np.concatenate(encoded.message), [1, 2, 3])
  assert encoded.memory == ()


def test_known_bytes_and_other_widths():
  assert CODEC.pack([np.array([1.0], np.float32)]) == bytes([0, 0, 0x80, 0x3F])
  half = [tf.constant([1.5, -2.0], tf.float16)]
  message, _ = codec_cases.assert_price_is_packed_length(CODEC, (), half)
  assert int(CODEC.message_bits(message)) == 32


def test_unpack_refuses_a_wrong_length():
  spec = [tf.TensorSpec([2], tf.float32)]
  with pytest.raises(ValueError, match='at least 64 bits'):
    CODEC.unpack(bytes(7), spec)
  with pytest.raises(ValueError, match='8 bits more'):
    CODEC.unpack(bytes(9), spec)


def test_has_no_memory():
  assert not CODEC.has_memory
  assert CODEC.initial_memory([tf.TensorSpec([2], tf.float32)]) == ()
