from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_lowrank.codecs import bit_stream


def test_known_bytes():
  writer = bit_stream.BitWriter()
  writer.write_bit(True)
  writer.write_array(np.array([1], np.uint8))
  # 1, then 00000001, then seven bits of padding.
  assert writer.num_bits == 9
  assert writer.to_bytes() == bytes([0b10000000, 0b10000000])


@given(
  st.lists(
    st.one_of(
      st.booleans(),
      st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(
        lambda x: np.array(x, np.float32)
      ),
      st.lists(st.integers(-(2**15), 2**15 - 1), max_size=5).map(lambda x: np.array(x, np.int16)),
    ),
    max_size=8,
  )
)
def test_reads_what_was_written(items):
  writer = bit_stream.BitWriter()
  for item in items:
    writer.write_bit(item) if isinstance(item, bool) else writer.write_array(item)
  data = writer.to_bytes()
  assert len(data) == -(-writer.num_bits // 8)
  reader = bit_stream.BitReader(data)
  for item in items:
    if isinstance(item, bool):
      assert reader.read_bit() == item
    else:
      read = reader.read_array(item.shape, item.dtype)
      assert read.dtype == item.dtype
      np.testing.assert_array_equal(read, item)
  reader.finish()


def test_refuses_too_short_and_too_long():
  with pytest.raises(ValueError, match='at least 32 bits, found 24'):
    bit_stream.BitReader(bytes(3)).read_array((), np.float32)
  with pytest.raises(ValueError, match='found 8 bits more'):
    bit_stream.BitReader(bytes(1)).finish()
  reader = bit_stream.BitReader(b'\xff')
  reader.read_bit()
  with pytest.raises(ValueError, match='found 7 bits more'):
    reader.finish()
