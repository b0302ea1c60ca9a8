"""A stream of bits: the wire format of the codecs' messages."""

import numpy as np
import numpy.typing as npt


class BitWriter:
  """Collects bits. The first bit written is the highest bit of the first byte."""

  def __init__(self) -> None:
    self._chunks: list[np.ndarray] = []

  def write_bit(self, bit: bool) -> None:
    self.write_bits([bit])

  def write_bits(self, bits: npt.ArrayLike) -> None:
    """Writes an array of booleans in row-major order, one bit each."""
    self._chunks.append(np.ravel(bits).astype(bool).astype(np.uint8))

  def write_integers(self, values: npt.ArrayLike, width: int) -> None:
    """Writes integers in [0, 2^width) with `width` <= 62 bits each, the highest bit first."""
    flat = np.ravel(values).astype(np.int64)
    if flat.size and not 0 <= flat.min() <= flat.max() < 1 << width:
      raise ValueError(f'Expected integers of {width} bits, found {flat.max()}.')
    self.write_bits(flat[:, None] >> np.arange(width)[::-1] & 1)

  def write_unary(self, values: np.ndarray) -> None:
    """Writes each non-negative integer n as n ones and a zero."""
    ends = np.cumsum(np.ravel(values).astype(np.int64) + 1)
    bits = np.ones(ends[-1] if len(ends) else 0, np.uint8)
    bits[ends - 1] = 0
    self._chunks.append(bits)

  def write_array(self, array: np.ndarray) -> None:
    """Writes the elements in row-major order, each as its little-endian bytes."""
    data = np.ascontiguousarray(array, dtype=np.asarray(array).dtype.newbyteorder('<'))
    self._chunks.append(np.unpackbits(np.frombuffer(data.tobytes(), np.uint8)))

  @property
  def num_bits(self) -> int:
    return sum(len(chunk) for chunk in self._chunks)

  def to_bytes(self) -> bytes:
    """All bits. The last byte is padded with zeros."""
    return np.packbits(np.concatenate([np.zeros(0, np.uint8), *self._chunks])).tobytes()


class BitReader:
  """Reads what a `BitWriter` wrote, in the same order."""

  def __init__(self, data: bytes):
    self._bits = np.unpackbits(np.frombuffer(data, np.uint8))
    self._position = 0

  def read_bits(self, count: int) -> np.ndarray:
    """The next `count` bits, uint8."""
    end = self._position + count
    if end > len(self._bits):
      raise ValueError(f'Expected a message of at least {end} bits, found {len(self._bits)}.')
    taken = self._bits[self._position : end]
    self._position = end
    return taken

  def read_bit(self) -> bool:
    return bool(self.read_bits(1)[0])

  def read_integers(self, count: int, width: int) -> np.ndarray:
    """`count` integers of `width` bits, int64."""
    bits = self.read_bits(count * width).reshape(count, width).astype(np.int64)
    return (bits << np.arange(width)[::-1]).sum(1)

  def read_unary(self, count: int) -> np.ndarray:
    """`count` integers, int64, each written by `write_unary`."""
    zeros = np.flatnonzero(self._bits[self._position :] == 0)[:count]
    if len(zeros) < count:
      raise ValueError(f'Expected {count} zeros after bit {self._position}, found {len(zeros)}.')
    self._position += int(zeros[-1]) + 1 if count else 0
    return np.diff(zeros, prepend=-1) - 1

  def read_array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    dtype = np.dtype(dtype).newbyteorder('<')
    count = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize * 8
    data = np.packbits(self.read_bits(count)).tobytes()
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder('='))

  def finish(self) -> None:
    """Raises ValueError if more than the padding of the last byte is left."""
    left = self._bits[self._position :]
    if len(left) >= 8 or left.any():
      raise ValueError(f'Expected the end of the message, found {len(left)} bits more.')
