"""Index sets: which of a tensor's elements a message holds. Their size in bits and wire format.

A set of k of n indices is sent in the shortest of three forms:
  bitmap           n bits
  fixed width      k ceil(log2 n) bits
  Golomb-Rice      codes of the gaps between the sorted indices: k (1 + b) + sum(gap >> b) bits,
                   with b near log2(ln 2 n / k), the best for randomly spread indices
One more bit says whether it is Golomb-Rice; which of the others it is follows from n and k. A set
of all or of no indices costs nothing. If k is not known to both sides, it is sent first, in
ceil(log2(n + 1)) bits.

S. W. Golomb, Run-length encodings, 1966; R. F. Rice, 1979.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank.codecs import bit_stream

FORM_BITS = 1


def rice_parameter(n: Any, count: Any) -> tf.Tensor:
  """int64 []: the largest b with 2^b <= 9/13 n / count, and 0 if there is none (9/13 is ln 2)."""
  quotient = tf.cast(n, tf.int64) * 9 // 13 // tf.maximum(tf.cast(count, tf.int64), 1)
  return tf.maximum(ledger.bit_length(quotient) - 1, 0)


def _gaps(indices: tf.Tensor, count: Any) -> tf.Tensor:
  """int64 [capacity]: the gaps before each of the first `count` sorted indices, then zeros."""
  indices = tf.cast(indices, tf.int64)
  before = tf.concat([tf.constant([-1], tf.int64), indices[:-1]], 0)
  valid = tf.range(tf.size(indices)) < tf.cast(count, tf.int32)
  return tf.where(valid, indices - before - 1, 0)


def golomb_bits(indices: tf.Tensor, count: Any, b: Any) -> tf.Tensor:
  """int64 []: the bits of all gaps: a quotient by 2^b in unary and a remainder in b bits each."""
  quotients = tf.bitwise.right_shift(_gaps(indices, count), tf.cast(b, tf.int64))
  return tf.reduce_sum(quotients) + tf.cast(count, tf.int64) * (1 + b)


def write_golomb(writer: bit_stream.BitWriter, indices: np.ndarray, b: int) -> None:
  """Appends the gaps between sorted indices, in the code that `golomb_bits` counts."""
  gaps = np.diff(indices, prepend=-1).astype(np.int64) - 1
  writer.write_unary(gaps >> b)
  writer.write_integers(gaps & ((1 << b) - 1), b)


def read_golomb(reader: bit_stream.BitReader, count: int, b: int) -> np.ndarray:
  """The sorted indices, int32, that `write_golomb` wrote."""
  gaps = reader.read_unary(count) << b
  gaps = gaps + reader.read_integers(count, b)
  return (np.cumsum(gaps + 1) - 1).astype(np.int32)


def _rice_bits(n: Any, indices: tf.Tensor, count: Any) -> tf.Tensor:
  return golomb_bits(indices, count, rice_parameter(n, count))


def bits(n: Any, indices: tf.Tensor, count: Any, *, known: bool) -> tf.Tensor:
  """int64 []: the size of a set in bits.

  Args:
    n: The size of the tensor, an integer or int64 [].
    indices: int32 [capacity]; the first `count`, sorted, are the set.
    count: The size of the set, an integer or an integer tensor [].
    known: Whether both sides know `count`.
  """
  n, count = tf.cast(n, tf.int64), tf.cast(count, tf.int64)
  header = tf.constant(0, tf.int64) if known else ledger.bit_length(n)
  trivial = tf.equal(count, 0) | tf.equal(count, n)  # In a TFF graph, == compares identities.
  cheapest = tf.minimum(ledger.index_set_bits(count, n), _rice_bits(n, indices, count))
  return header + tf.where(trivial, tf.constant(0, tf.int64), FORM_BITS + cheapest)


def write(writer: bit_stream.BitWriter, n: int, indices: np.ndarray, known: bool) -> None:
  """Appends a set, int [count], sorted. `known`: whether both sides know the count."""
  count = len(indices)
  if not known:
    writer.write_integers([count], int(ledger.bit_length(n)))
  if count in (0, n):
    return
  fixed, rice = int(ledger.index_set_bits(count, n)), int(_rice_bits(n, indices, count))
  writer.write_bit(rice < fixed)
  if rice < fixed:
    write_golomb(writer, indices, int(rice_parameter(n, count)))
  elif fixed == n:
    writer.write_bits(np.isin(np.arange(n), indices))
  else:
    writer.write_integers(indices, int(ledger.index_width(n)))


def read(reader: bit_stream.BitReader, n: int, count: int | None) -> np.ndarray:
  """The sorted indices, int32, that `write` wrote. `count` is None if it was sent with them."""
  if count is None:
    count = int(reader.read_integers(1, int(ledger.bit_length(n)))[0])
  if count in (0, n):
    return np.arange(count, dtype=np.int32)
  if reader.read_bit():
    return read_golomb(reader, count, int(rice_parameter(n, count)))
  if int(ledger.index_set_bits(count, n)) == n:
    return np.flatnonzero(reader.read_bits(n)).astype(np.int32)
  return reader.read_integers(count, int(ledger.index_width(n))).astype(np.int32)
