import collections

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.client_state import packing

EXAMPLE = collections.OrderedDict(
  b=(np.zeros([2, 3], np.float32), np.int64(0)), a=[np.zeros([], bool), np.zeros([0, 4])]
)


def make(rng):
  return collections.OrderedDict(
    b=(rng.normal(size=[2, 3]).astype(np.float32), np.int64(-(2**60) - 1)),
    a=[np.array(True), np.zeros([0, 4])],
  )


def test_unpack_is_the_inverse_of_pack(rng):
  state = make(rng)
  found = packing.Packing(EXAMPLE).unpack(packing.Packing(EXAMPLE).pack(state, b'a'), b'a')
  assert list(found) == ['b', 'a'] and isinstance(found['b'], tuple)
  for a, b in zip(tf.nest.flatten(state), tf.nest.flatten(found), strict=True):
    assert np.asarray(a).dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_tensors_pack_as_arrays(rng):
  state = make(rng)
  tensors = tf.nest.map_structure(tf.constant, state)
  assert packing.Packing(EXAMPLE).pack(tensors, b'') == packing.Packing(EXAMPLE).pack(state, b'')


def test_float16_halves_the_bytes_within_its_rounding(rng):
  example = np.zeros(10_000, np.float32)
  value = rng.normal(size=10_000).astype(np.float32)
  small = packing.Packing(example, float16=True)
  data = small.pack(value, b'')
  assert len(data) == small.num_bytes == 4 + 2 * 10_000  # A checksum and the numbers.
  found = small.unpack(data, b'')
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, value, rtol=2**-11, atol=2**-25)
  np.testing.assert_array_equal(
    small.unpack(small.pack(found, b''), b''), found
  )  # Rounded once only.
  assert small.unpack(small.pack(np.full(10_000, 1e9, np.float32), b''), b'')[0] == 65504


def test_bfloat16_is_kept_as_it_is():
  value = np.arange(5).astype(tf.bfloat16.as_numpy_dtype)
  for float16 in (False, True):
    pack = packing.Packing(value, float16)
    found = pack.unpack(pack.pack(value + value, b''), b'')
    assert found.dtype == value.dtype and found.tolist() == [0, 2, 4, 6, 8]


def test_integers_stay_whole_under_float16():
  small = packing.Packing(np.int32(0), float16=True)
  assert small.unpack(small.pack(np.int32(70_001), b''), b'') == 70_001


def test_every_flipped_byte_is_found(rng):
  pack = packing.Packing(EXAMPLE)
  data = pack.pack(make(rng), b'whose')
  for i in range(len(data)):
    damaged = bytearray(data)
    damaged[i] ^= 4
    with pytest.raises(ValueError, match='checksum'):
      pack.unpack(bytes(damaged), b'whose')
  with pytest.raises(ValueError, match='checksum'):
    pack.unpack(data[:-1], b'whose')
  with pytest.raises(ValueError, match='checksum'):
    pack.unpack(data, b'whosf')


def test_refuses_other_structures():
  pack = packing.Packing(np.zeros([2], np.float32))
  with pytest.raises(ValueError, match=r'Tensor 0 .* must be float32 \[2\], found float64 \[3\]'):
    pack.pack(np.zeros([3]), b'')
  with pytest.raises(ValueError):
    pack.pack((np.zeros([2], np.float32),) * 2, b'')
  with pytest.raises(TypeError, match='Expected numbers'):
    packing.Packing('text')
