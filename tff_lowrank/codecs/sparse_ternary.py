"""Sparse ternary compression: the largest numbers, as plus or minus their mean magnitude."""

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
from tff_lowrank.codecs import index_sets
from tff_lowrank.codecs import top_k

# log(phi - 1), with phi the golden ratio.
_LOG_GOLDEN = math.log((math.sqrt(5) - 1) / 2)


def golomb_parameter(count: Any, n: Any) -> tf.Tensor:
  """int64 []: b*, the bits of a gap's remainder, for `count` of `n` numbers.

  It is 1 + floor(log2(log(phi - 1) / log(1 - p))), at least 0, with p = count / n. Sattler et al.,
  2019.
  """
  p = tf.cast(count, tf.float64) / tf.cast(tf.maximum(tf.cast(n, tf.int64), 1), tf.float64)
  ratio = _LOG_GOLDEN / tf.math.log1p(-tf.minimum(p, 1 - 1e-9))
  # A `count` of 0 has no gaps.
  bits = 1 + tf.floor(tf.math.log(tf.clip_by_value(ratio, 1e-9, 2.0**40)) / math.log(2))
  return tf.maximum(tf.cast(bits, tf.int64), 0)


class Ternary(NamedTuple):
  """The message. Each field has an entry for each block:

  indices: int32 [k], sorted.
  signs: int8 [k], -1, 0 or 1; a number with the sign 0 is not sent.
  means: float32 [], the mean magnitude.
  sizes, specs: of the block's tensors, known to both sides.
  """

  indices: list[tf.Tensor]
  signs: list[tf.Tensor]
  means: list[tf.Tensor]
  sizes: list[list[Any]]
  specs: list[list[tf.TensorSpec]]


@dataclasses.dataclass(frozen=True)
class SparseTernary(codec.Codec):
  """Sends the signs of the k largest numbers of each block, and their mean magnitude.

  amount: how much of each block is sent: the fraction p, float in (0, 1], but at least one number;
    or the count of numbers, int.
  granularity: `'tensor'`, each tensor alone, as in the authors' code; or `'model'`, all tensors
    together, as in the paper's text.

  Sattler, Wiedemann, Mueller, Samek: Robust and Communication-Efficient Federated Learning from
  Non-IID Data, 2019, https://arxiv.org/abs/1903.02891, algorithm 1. The whole method is
    error_feedback(sparse_ternary(p))   uplink
    sparse_ternary(p)                   downlink: the next difference has the server's residual
  A 0 is never sent, and does not count in the mean magnitude. On the wire, for each block: how many
  numbers are sent, in as many bits as k has; the gaps between them in the paper's Golomb code,
  algorithm 3; one sign each; and the magnitude, 32 bits. Official units: bits.
  """

  amount: float | int = 0.01
  granularity: str = 'tensor'

  name: ClassVar[str] = 'sparse_ternary'

  def __post_init__(self) -> None:
    top_k.check_amount(self.amount)
    checks.check_one_of('granularity', self.granularity, codec.GRANULARITIES)

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(contraction=True, corrigible=True, variable_size=True)

  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    del reference
    largest = top_k.TopK(self.amount, granularity=self.granularity).encode((), value, seed).message
    signs, means = [], []
    for numbers in largest.values:
      wide = tf.cast(numbers, tf.float64)
      sign = tf.sign(wide)
      # In float64: a float32 sum can overflow.
      mean = tf.math.divide_no_nan(tf.reduce_sum(tf.abs(wide)), tf.reduce_sum(tf.abs(sign)))
      signs.append(tf.cast(sign, tf.int8))
      means.append(tf.cast(mean, tf.float32))
    message = Ternary(largest.indices, signs, means, largest.sizes, largest.specs)
    return codec.Encoded(message, memory)

  def decode(self, memory: Any, message: Ternary) -> list[tf.Tensor]:
    del memory
    decoded = []
    for indices, signs, mean, sizes, specs in zip(*message, strict=True):
      dtype = top_k.common_dtype(specs)
      numbers = tf.cast(signs, dtype) * tf.cast(mean, dtype)
      decoded += top_k.scattered(indices, numbers, sizes, specs)
    return decoded

  def _sent(self, indices: tf.Tensor, signs: tf.Tensor, n: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """int32 [k] and int64 []: indices and their count; the first `count`, sorted, are sent."""
    is_sent = tf.not_equal(signs, 0)
    places = tf.sort(tf.where(is_sent, indices, tf.cast(n, tf.int32)))
    return places, tf.math.count_nonzero(is_sent)

  def message_price(self, message: Ternary) -> ledger.Price:
    prices = []
    for indices, signs, _, sizes, _ in zip(*message, strict=True):
      n = sum(sizes)
      k = top_k.kept(self.amount, n)
      places, count = self._sent(indices, signs, n)
      gaps = index_sets.golomb_bits(places, count, golomb_parameter(k, n))
      prices.append(
        ledger.price(
          payload=count, index_or_mask=ledger.bit_length(k) + gaps, scalar=ledger.SCALAR_BITS
        )
      )
    return ledger.add(*prices)

  def official_units(self, message: Ternary) -> tf.Tensor:
    return ledger.total(self.message_price(message))

  def write(self, writer: bit_stream.BitWriter, message: Ternary) -> None:
    for indices, signs, mean, sizes, _ in zip(*message, strict=True):
      n, signs = sum(sizes), np.asarray(signs)
      k = top_k.kept(self.amount, n)
      is_sent = signs != 0
      writer.write_integers([np.count_nonzero(is_sent)], int(ledger.bit_length(k)))
      index_sets.write_golomb(writer, np.asarray(indices)[is_sent], int(golomb_parameter(k, n)))
      writer.write_bits(signs[is_sent] > 0)
      writer.write_array(np.asarray(mean, np.float32))

  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Ternary:
    blocks = codec.blocks_of(tf.nest.flatten(structures.specs(value_spec)), self.granularity)
    all_indices, all_signs, means = [], [], []
    sizes, specs = top_k.layout(blocks)
    for n in map(sum, sizes):
      k = top_k.kept(self.amount, n)
      count = int(reader.read_integers(1, int(ledger.bit_length(k)))[0])
      all_indices.append(index_sets.read_golomb(reader, count, int(golomb_parameter(k, n))))
      all_signs.append(np.where(reader.read_bits(count), 1, -1).astype(np.int8))
      means.append(reader.read_array((), np.float32))
    return Ternary(all_indices, all_signs, means, sizes, specs)
