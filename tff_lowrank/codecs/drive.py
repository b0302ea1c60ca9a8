"""DRIVE: a random rotation, then signs."""

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

MAX_BLOCK = 4096


def hadamard(size: int) -> np.ndarray:
  """The orthonormal Hadamard matrix, float64 [size, size]; `size` is a power of 2."""
  matrix = np.ones((1, 1))
  while len(matrix) < size:
    matrix = np.block([[matrix, matrix], [matrix, -matrix]]) / np.sqrt(2)
  return matrix


def block_shape(n: int) -> tuple[int, int, int]:
  """How n numbers are split into blocks: (number of blocks, a, b).

  A block has a * b numbers, a power of 2 that is at most 4096. The last block is padded with
  zeros. The Hadamard matrix of a block is the Kronecker product of those of sizes a and b.
  """
  size = min(MAX_BLOCK, 1 << max(n - 1, 0).bit_length())
  a = 1 << (size.bit_length() // 2)
  return -(-n // size), a, size // a


class Rotated(NamedTuple):
  """A tensor's message.

  positive: bool [blocks, a, b], the signs after the rotation.
  scales: float32 [blocks].
  seed: int32 [2], of the rotation.
  """

  positive: tf.Tensor
  scales: tf.Tensor
  seed: tf.Tensor
  spec: tf.TensorSpec


@dataclasses.dataclass(frozen=True)
class DRIVE(per_tensor.PerTensor):
  """Sends the signs of each randomly rotated block of 4,096 numbers, and one scale per block.

  The rotation R multiplies by random signs, then by a Hadamard matrix. A block x is decoded as
  S R^T sign(R x).

  unbiased: if true, S = |x|^2 / |R x|_1. Over uniformly random rotations the mean of the decoded
    block is then x; over these rotations nearly so, for long blocks. If false, S = |R x|_1 / d, d
    being the block's length, which has the least error.

  Vargaftik et al., DRIVE, 2021, https://arxiv.org/abs/2105.08339, algorithm 1 and section 6. On
  the wire: the seed, 64 bits per tensor; one bit per number, padding included; the scale, 32 bits
  per block. Official units: bits.
  """

  unbiased: bool = False

  name: ClassVar[str] = 'drive'

  def __post_init__(self) -> None:
    checks.check_type('unbiased', self.unbiased, bool)

  @property
  def traits(self) -> codec.Traits:
    # It is only nearly unbiased, so the trait is not set.
    return codec.Traits(
      contraction=not self.unbiased, corrigible=not self.unbiased, fixed_shape=True
    )

  def _signs(self, shape: tuple[int, int, int], seed: tf.Tensor) -> tf.Tensor:
    bits = tf.random.stateless_uniform(shape, seed, 0, 2, tf.int32)
    return tf.cast(2 * bits - 1, tf.float32)

  def _transform(self, blocks: tf.Tensor) -> tf.Tensor:
    a, b = (tf.constant(hadamard(size), tf.float32) for size in blocks.shape[1:])
    return tf.einsum('ij,njk,kl->nil', a, blocks, b)

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Rotated, Any]:
    n, shape = structures.size(x), block_shape(structures.size(x))
    flat = tf.pad(tf.reshape(x, [-1]), [[0, shape[0] * shape[1] * shape[2] - n]])
    blocks = tf.reshape(tf.cast(flat, tf.float64), shape)
    # Divided by the largest magnitude, so that no square overflows or underflows in float32.
    largest = tf.reduce_max(tf.abs(blocks), [1, 2], keepdims=True)
    unit = tf.cast(tf.math.divide_no_nan(blocks, largest), tf.float32)
    rotated = self._transform(unit * self._signs(shape, seed))
    wide = tf.cast(rotated, tf.float64)
    sums = tf.reduce_sum(tf.abs(wide), [1, 2])
    if self.unbiased:
      scales = tf.math.divide_no_nan(tf.reduce_sum(tf.square(wide), [1, 2]), sums)
    else:
      scales = sums / (shape[1] * shape[2])
    scales = tf.minimum(scales * tf.reshape(largest, [-1]), tf.float32.max)
    spec = tf.TensorSpec(x.shape, x.dtype)
    return Rotated(rotated >= 0, tf.cast(scales, tf.float32), seed, spec), memory

  def decode_tensor(self, message: Rotated) -> tf.Tensor:
    shape = tuple(message.positive.shape)
    signs = tf.where(message.positive, tf.constant(1.0), tf.constant(-1.0))
    unit = self._transform(signs) * self._signs(shape, message.seed)
    scales = tf.reshape(tf.cast(message.scales, tf.float64), [-1, 1, 1])
    flat = tf.reshape(tf.cast(unit, tf.float64) * scales, [-1])[: structures.size(message.spec)]
    return tf.cast(tf.reshape(flat, message.spec.shape), message.spec.dtype)

  def tensor_price(self, message: Rotated) -> ledger.Price:
    blocks = message.scales.shape[0]
    return ledger.price(
      payload=structures.size(message.positive),
      scalar=ledger.SEED_BITS + blocks * ledger.SCALAR_BITS,
    )

  def tensor_units(self, message: Rotated) -> tf.Tensor:
    return ledger.total(self.tensor_price(message))

  def write_tensor(self, writer: bit_stream.BitWriter, message: Rotated) -> None:
    writer.write_array(np.asarray(message.seed, np.int32))
    writer.write_bits(np.asarray(message.positive))
    writer.write_array(np.asarray(message.scales, np.float32))

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Rotated:
    shape = block_shape(structures.size(spec))
    seed = tf.constant(reader.read_array((2,), np.int32))
    positive = reader.read_bits(shape[0] * shape[1] * shape[2]).astype(bool).reshape(shape)
    return Rotated(positive, reader.read_array(shape[:1], np.float32), seed, spec)
