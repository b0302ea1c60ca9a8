"""Low-rank codecs, which send a matrix as a few outer products: ATOMO, truncated SVD, PowerSGD."""

import abc
import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec
from tff_lowrank.codecs import per_tensor


class Factors(NamedTuple):
  """A tensor's message: `left right^T` reshaped, or the tensor itself if that is shorter.

  left, right: [m, r] and [n, r], or None.
  dense: the tensor, or None.
  count: int32 [], how many of the r columns are sent; the others are 0 in `left`.
  shape: the tensor's shape, known to both sides.
  """

  left: Any
  right: Any
  dense: Any
  count: Any
  shape: tuple[int, ...]


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
  """(m, n): the last axis becomes the columns, all others the rows. A vector has n = 1.

  The columns of a convolution kernel [h, w, in, out] are its output channels.
  """
  n = shape[-1] if len(shape) > 1 else 1
  return math.prod(shape[:-1] if len(shape) > 1 else shape), n


class _LowRank(per_tensor.PerTensor):
  """The base of the codecs in this file. Each has a `rank`. Official units: 32-bit floats."""

  rank: int

  def __post_init__(self) -> None:
    checks.check_at_least('rank', self.rank, 1)

  def _is_dense(self, shape: tuple[int, ...]) -> bool:
    m, n = matrix_shape(tuple(shape))
    return min(m, n) < 2 or self.rank * (m + n) >= m * n

  @abc.abstractmethod
  def _factorize(
    self, memory: Any, matrix: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, Any, Any]:
    """(left, right, count, new memory) of a matrix [m, n]."""

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Factors, Any]:
    shape = tuple(x.shape)
    if self._is_dense(shape):
      return Factors(None, None, x, None, shape), memory
    # TensorFlow has no decompositions in half precision.
    matrix = structures.widened(tf.reshape(x, matrix_shape(shape)))
    left, right, count, memory = self._factorize(memory, matrix, seed)
    left, right = tf.cast(left, x.dtype), tf.cast(right, x.dtype)
    return Factors(left, right, None, count, shape), memory

  def decode_tensor(self, message: Factors) -> tf.Tensor:
    if message.dense is not None:
      return tf.convert_to_tensor(message.dense)
    left, right = (
      structures.widened(tf.convert_to_tensor(x)) for x in (message.left, message.right)
    )
    product = tf.cast(tf.matmul(left, right, transpose_b=True), message.left.dtype)
    return tf.reshape(product, message.shape)

  def tensor_price(self, message: Factors) -> ledger.Price:
    if message.dense is not None:
      return ledger.dense_price([message.dense])
    column = (message.left.shape[0] + message.right.shape[0]) * message.left.dtype.size * 8
    return ledger.price(payload=tf.cast(message.count, tf.int64) * column)

  def write_tensor(self, writer: bit_stream.BitWriter, message: Factors) -> None:
    if message.dense is not None:
      writer.write_array(structures.to_numpy(message.dense))
      return
    writer.write_array(np.asarray(message.left))
    writer.write_array(np.asarray(message.right))

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Factors:
    shape, dtype = tuple(spec.shape), spec.dtype.as_numpy_dtype
    if self._is_dense(shape):
      return Factors(None, None, reader.read_array(shape, dtype), None, shape)
    return self._read_factors(reader, shape, dtype, self.rank)

  def _read_factors(
    self, reader: bit_stream.BitReader, shape: tuple[int, ...], dtype: Any, count: int
  ) -> Factors:
    left, right = (reader.read_array((side, count), dtype) for side in matrix_shape(shape))
    return Factors(left, right, None, count, shape)


@dataclasses.dataclass(frozen=True)
class TruncatedSVD(_LowRank):
  """Sends the `rank` largest singular triples of each matrix, its best approximation of that rank.

  It is deterministic and biased. The experiments of the LBGM paper call it ATOMO.
  """

  rank: int = 2

  name: ClassVar[str] = 'truncated_svd'

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(contraction=True, corrigible=True, fixed_shape=True)

  def _factorize(
    self, memory: Any, matrix: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, Any, Any]:
    s, u, v = tf.linalg.svd(matrix)
    return u[:, : self.rank] * s[: self.rank], v[:, : self.rank], self.rank, memory


def atom_probabilities(s: tf.Tensor, budget: float) -> tf.Tensor:
  """The probability of each atom, [r], for singular values `s` in descending order.

  ATOMO, algorithm 1: the probabilities with the sum `budget` that have the least variance. They are
  proportional to the singular values, except that those that would exceed 1 are 1.
  """
  places = tf.range(s.shape[0], dtype=s.dtype)
  tails = tf.cumsum(s, reverse=True)
  first = tf.argmax(tf.cast((budget - places) * s <= tails, tf.int32))
  left = budget - tf.gather(places, first)
  shared = tf.math.divide_no_nan(left * s, tf.gather(tails, first))
  return tf.minimum(tf.where(places < tf.cast(first, s.dtype), tf.ones_like(s), shared), 1)


@dataclasses.dataclass(frozen=True)
class Atomo(_LowRank):
  """Sends a few singular triples of each matrix, drawn at random so that the mean is the matrix.

  rank: how many are sent on average; s in the paper.

  Wang et al., ATOMO, 2018, https://arxiv.org/abs/1806.04090. Triple i is sent with probability
  p_i (see `atom_probabilities`) as u_i sigma_i / p_i and v_i. On the wire: the number of
  triples, then the vectors.
  """

  rank: int = 2

  name: ClassVar[str] = 'atomo'

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(unbiased=True, variable_size=True, fixed_shape=True)

  def _factorize(
    self, memory: Any, matrix: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, Any, Any]:
    s, u, v = tf.linalg.svd(matrix)
    p = atom_probabilities(s, float(self.rank))
    draw = tf.random.stateless_uniform(s.shape, per_tensor.private_seed(seed, matrix))
    sent = tf.cast(draw, s.dtype) < p
    left = u * tf.where(sent, tf.math.divide_no_nan(s, p), tf.zeros_like(s))
    # The columns that are sent come first; the shape is fixed.
    order = tf.argsort(tf.cast(~sent, tf.int32), stable=True)
    count = tf.reduce_sum(tf.cast(sent, tf.int32))
    return tf.gather(left, order, axis=1), tf.gather(v, order, axis=1), count, memory

  def _count_width(self, shape: tuple[int, ...]) -> int:
    return min(matrix_shape(shape)).bit_length()

  def tensor_price(self, message: Factors) -> ledger.Price:
    price = super().tensor_price(message)
    if message.dense is not None:
      return price
    return ledger.add(price, ledger.price(flag=self._count_width(message.shape)))

  def tensor_units(self, message: Factors) -> Any:
    return ledger.total(super().tensor_price(message)) // 32

  def write_tensor(self, writer: bit_stream.BitWriter, message: Factors) -> None:
    if message.dense is None:
      count = int(message.count)
      writer.write_integers([count], self._count_width(message.shape))
      left, right = np.asarray(message.left)[:, :count], np.asarray(message.right)[:, :count]
      message = message._replace(left=left, right=right)
    super().write_tensor(writer, message)

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Factors:
    shape, dtype = tuple(spec.shape), spec.dtype.as_numpy_dtype
    if self._is_dense(shape):
      return super().read_tensor(reader, spec)
    count = int(reader.read_integers(1, self._count_width(shape))[0])
    return self._read_factors(reader, shape, dtype, count)


@dataclasses.dataclass(frozen=True)
class PowerSGD(_LowRank):
  """Projects each matrix on `rank` directions, which a step of power iteration improves each time.

  With M the matrix and Q, [n, r], the client's memory:
    P = orthonormal basis of M Q;  Q = M^T P;  the server reconstructs P Q^T.

  Vogels et al., PowerSGD, 2019, https://arxiv.org/abs/1905.13727, algorithm 1 without error
  feedback; for that use `ErrorFeedback(PowerSGD())`. In the paper, workers all-reduce P and then Q,
  so that all share one Q; this takes two exchanges per round. Here each client has its own Q and
  sends both factors in one message, so P Q^T is a projection of the client's own M. Both send
  r (m + n) numbers per client.
  """

  rank: int = 2

  name: ClassVar[str] = 'power_sgd'

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(contraction=True, corrigible=True, has_memory=True, fixed_shape=True)

  def initial_tensor_memory(self, spec: tf.TensorSpec) -> Any:
    if self._is_dense(tuple(spec.shape)):
      return ()
    dtype = tf.float64 if spec.dtype == tf.float64 else tf.float32
    _, n = matrix_shape(tuple(spec.shape))
    return tf.random.stateless_normal([n, self.rank], [0, 0], dtype=dtype)

  def _factorize(
    self, memory: Any, matrix: tf.Tensor, seed: tf.Tensor
  ) -> tuple[tf.Tensor, tf.Tensor, Any, Any]:
    # Divided by the largest magnitude, since the decomposition squares numbers.
    largest = tf.reduce_max(tf.abs(matrix))
    unit = tf.math.divide_no_nan(matrix, largest)
    p, _ = tf.linalg.qr(tf.matmul(unit, memory))
    q = tf.matmul(unit, p, transpose_a=True)
    # After a matrix of lower rank, a direction would otherwise stay 0 for ever.
    alive = tf.reduce_all(tf.reduce_any(tf.not_equal(q, 0), 0))
    return p, q * largest, self.rank, tf.where(alive, q, memory)
