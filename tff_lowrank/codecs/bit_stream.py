"""A stream of bits, the wire form that codecs pack their messages into."""

import numpy as np


class BitWriter:
  """Collects bits; the first bit written is the highest of the first byte."""

  def __init__(self):
    self._chunks: list[np.ndarray] = []

  def write_bit(self, bit: bool) -> None:
    self._chunks.append(np.array([bool(bit)], np.uint8))

  def write_array(self, array: np.ndarray) -> None:
    """Writes the elements in row-major order, each as its little-endian bytes."""
    data = np.ascontiguousarray(array, dtype=np.asarray(array).dtype.newbyteorder('<'))
    self._chunks.append(np.unpackbits(np.frombuffer(data.tobytes(), np.uint8)))

  @property
  def num_bits(self) -> int:
    return sum(len(chunk) for chunk in self._chunks)

  def to_bytes(self) -> bytes:
    """All bits, the last byte filled up with zeros."""
    return np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._chunks])).tobytes()


class BitReader:
  """Reads what a `BitWriter` wrote, in the same order."""

  def __init__(self, data: bytes):
    self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
    self._position = 0

  def _take(self, count: int) -> np.ndarray:
    end = self._position + count
    if end > len(self._bits):
      raise ValueError(f'Expected a message of at least {end} bits, found {len(self._bits)}.')
    taken = self._bits[self._position : end]
    self._position = end
    return taken

  def read_bit(self) -> bool:
    return bool(self._take(1)[0])

  def read_array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    dtype = np.dtype(dtype).newbyteorder('<')
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize * 8
    data = np.packbits(self._take(count)).tobytes()
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder('='))

  def finish(self) -> None:
    """Raises ValueError unless all that is left is the padding of the last byte."""
    left = self._bits[self._position :]
    if len(left) >= 8 or left.any():
      raise ValueError(f'Expected the end of the message, found {len(left)} bits more.')
