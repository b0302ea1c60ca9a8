"""Quantization: each number is rounded to one of a few levels, or to half precision."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec
from tff_lowrank.codecs import per_tensor

NORMS = ('l2', 'max')
FLOAT16_MAX = float(np.finfo(np.float16).max)
FLOAT32_MAX = float(np.finfo(np.float32).max)


def symbol_group(radix: int) -> tuple[int, int]:
  """How symbols with `radix` possible values are packed: (symbols in a group, bits of a group).

  It is the group of at most 8 symbols with the fewest bits per symbol: 5 ternary symbols in 8 bits.
  """
  groups = [(size, (radix**size - 1).bit_length()) for size in range(1, 9)]
  return min((g for g in groups if g[1] <= 62), key=lambda g: g[1] / g[0])


def symbol_bits(count: Any, radix: int) -> Any:
  """The bits of `count` symbols, int or int64 []. The last group is filled up."""
  size, width = symbol_group(radix)
  return -(-count // size) * width


def write_symbols(writer: bit_stream.BitWriter, symbols: np.ndarray, radix: int) -> None:
  """Appends integers in [0, radix)."""
  size, width = symbol_group(radix)
  symbols = np.ravel(symbols).astype(np.int64)
  groups = np.pad(symbols, (0, -len(symbols) % size)).reshape(-1, size)
  writer.write_integers(groups @ radix ** np.arange(size, dtype=np.int64), width)


def read_symbols(reader: bit_stream.BitReader, count: int, radix: int) -> np.ndarray:
  """The `count` integers that `write_symbols` wrote."""
  size, width = symbol_group(radix)
  groups = reader.read_integers(-(-count // size), width)
  return (groups[:, None] // radix ** np.arange(size, dtype=np.int64) % radix).ravel()[:count]


class Quantized(NamedTuple):
  """A tensor's message.

  levels: int32, the tensor's shape, in [-s, s].
  norm: float32 [].
  """

  levels: tf.Tensor
  norm: tf.Tensor
  dtype: tf.DType


@dataclasses.dataclass(frozen=True)
class QSGD(per_tensor.PerTensor):
  """Rounds each number to one of `2 levels + 1` multiples of `norm / levels`.

  levels: s, the number of positive levels.
  norm: of each tensor: `'l2'` as in the papers, or `'max'`. With `'l2'`, the numbers of a long
    tensor are far below the norm, and most levels are not used.
  stochastic: whether numbers are rounded up or down at random, so that the mean is kept. If false,
    they are rounded to the nearest level, which is biased, but a contraction.

  Alistarh et al., QSGD, 2017, https://arxiv.org/abs/1610.02132, eq. 2; FedPAQ, Reisizadeh et
  al., 2020, https://arxiv.org/abs/1909.13014, uses this on the uplink. On the wire: the norm, 32
  bits, and about log2(2 s + 1) bits per number (see `symbol_group`), without QSGD's Elias code.
  Official units: 32-bit floats.
  """

  levels: int = 127
  norm: str = 'l2'
  stochastic: bool = True

  name: ClassVar[str] = 'qsgd'

  def __post_init__(self) -> None:
    checks.check_at_least('levels', self.levels, 1)
    if self.levels > 2**15:
      raise ValueError(f'`levels` must be at most {2**15}, found {self.levels}.')
    checks.check_one_of('norm', self.norm, NORMS)
    checks.check_type('stochastic', self.stochastic, bool)

  @property
  def traits(self) -> codec.Traits:
    nearest = not self.stochastic
    return codec.Traits(unbiased=self.stochastic, contraction=nearest, corrigible=nearest)

  def _norm(self, x: tf.Tensor) -> tf.Tensor:
    """float32 [], at least the largest magnitude of `x`, float64."""
    if self.norm == 'l2':
      norm = tf.sqrt(tf.reduce_sum(tf.square(x)))
    else:
      norm = tf.maximum(tf.reduce_max(tf.abs(x)), 0)  # The maximum of no numbers is -infinity.
    return tf.cast(tf.minimum(norm, FLOAT32_MAX), tf.float32)

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Quantized, Any]:
    wide = tf.cast(x, tf.float64)
    norm = self._norm(wide)
    scaled = tf.math.divide_no_nan(wide, tf.cast(norm, tf.float64)) * self.levels
    if self.stochastic:
      noise = tf.random.stateless_uniform(tf.shape(x), per_tensor.private_seed(seed, x))
      rounded = tf.floor(scaled + tf.cast(noise, tf.float64))
    else:
      rounded = tf.round(scaled)
    # After the norm is rounded to float32, a magnitude can be just above it.
    levels = tf.clip_by_value(tf.cast(rounded, tf.int32), -self.levels, self.levels)
    return Quantized(levels, norm, x.dtype), memory

  def decode_tensor(self, message: Quantized) -> tf.Tensor:
    unit = tf.cast(message.norm, tf.float64) / self.levels
    return tf.cast(tf.cast(message.levels, tf.float64) * unit, message.dtype)

  def tensor_price(self, message: Quantized) -> ledger.Price:
    symbols = symbol_bits(structures.size(message.levels), 2 * self.levels + 1)
    return ledger.price(payload=symbols, scalar=ledger.SCALAR_BITS)

  def write_tensor(self, writer: bit_stream.BitWriter, message: Quantized) -> None:
    writer.write_array(np.asarray(message.norm, np.float32))
    write_symbols(writer, np.asarray(message.levels) + self.levels, 2 * self.levels + 1)

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Quantized:
    norm = reader.read_array((), np.float32)
    levels = read_symbols(reader, structures.size(spec), 2 * self.levels + 1) - self.levels
    return Quantized(levels.astype(np.int32).reshape(spec.shape), norm, spec.dtype)


@dataclasses.dataclass(frozen=True)
class TernGrad(per_tensor.PerTensor):
  """Rounds each number at random to -s, 0 or s, where s is the tensor's largest magnitude.

  clip: magnitudes beyond `clip` root mean squares of the tensor are clipped first. This makes s
    smaller, and the codec biased. The paper trains with 2.5. None does not clip.

  Wen et al., TernGrad, 2017, https://arxiv.org/abs/1705.07878, eqs. 3 and 8. On the wire: s, 32
  bits, and five numbers per byte. Official units: 32-bit floats.
  """

  clip: float | None = None

  name: ClassVar[str] = 'terngrad'

  _ternary: ClassVar[QSGD] = QSGD(levels=1, norm='max')

  def __post_init__(self) -> None:
    if self.clip is not None:
      checks.check_type('clip', self.clip, (int, float))
      if not self.clip > 0:
        raise ValueError(f'`clip` must be above 0, found {self.clip!r}.')

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(unbiased=self.clip is None)

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Quantized, Any]:
    if self.clip is not None:
      wide = tf.cast(x, tf.float64)
      deviation = tf.sqrt(tf.reduce_sum(tf.square(wide)) / structures.divisor(x))
      bound = tf.cast(self.clip * deviation, x.dtype)
      x = tf.clip_by_value(x, -bound, bound)
    return self._ternary.encode_tensor(memory, x, seed, model)

  def decode_tensor(self, message: Quantized) -> tf.Tensor:
    return self._ternary.decode_tensor(message)

  def tensor_price(self, message: Quantized) -> ledger.Price:
    return self._ternary.tensor_price(message)

  def write_tensor(self, writer: bit_stream.BitWriter, message: Quantized) -> None:
    self._ternary.write_tensor(writer, message)

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Quantized:
    return self._ternary.read_tensor(reader, spec)


class Halves(NamedTuple):
  """A tensor's message. halves: float16, the tensor's shape."""

  halves: tf.Tensor
  dtype: tf.DType


@dataclasses.dataclass(frozen=True)
class Float16(per_tensor.PerTensor):
  """Rounds each number to a 16-bit float; FedPara's tables call this FedPAQ.

  Magnitudes beyond 65,504 become 65,504. Hyeon-Woo et al., FedPara, 2022,
  https://arxiv.org/abs/2108.06098, Table 9. Official units: 32-bit floats, so half
  the count of numbers.
  """

  name: ClassVar[str] = 'float16'

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(contraction=True, corrigible=True)

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Halves, Any]:
    clipped = tf.clip_by_value(structures.widened(x), -FLOAT16_MAX, FLOAT16_MAX)
    return Halves(tf.cast(clipped, tf.float16), x.dtype), memory

  def decode_tensor(self, message: Halves) -> tf.Tensor:
    return tf.cast(message.halves, message.dtype)

  def tensor_price(self, message: Halves) -> ledger.Price:
    return ledger.dense_price([message.halves])

  def write_tensor(self, writer: bit_stream.BitWriter, message: Halves) -> None:
    writer.write_array(np.asarray(message.halves))

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Halves:
    return Halves(reader.read_array(tuple(spec.shape), np.float16), spec.dtype)
