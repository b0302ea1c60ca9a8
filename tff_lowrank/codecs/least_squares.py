"""Least squares: the best approximation of a vector by a weighted sum of a few others."""

import numpy as np
import tensorflow as tf

from tff_lowrank import structures

Block = list[tf.Tensor]

CUTOFF = 1e-12
# Jacobi's method converges quadratically; matrices of 16 rows need seven.
_SWEEPS = 10


def _pairings(n: int) -> list[np.ndarray]:
  """Splits all pairs of n indices into rounds in which no index is in two pairs.

  A round is a matrix, [n, n], with 1 at each pair. If n is odd, each round leaves one index out.
  """
  seats = list(range(n)) + [None] * (n % 2)
  rounds = []
  for _ in range(len(seats) - 1):
    pairing = np.zeros((n, n))
    for p, q in zip(seats, reversed(seats), strict=True):
      if p is not None and q is not None:
        pairing[p, q] = 1
    rounds.append(pairing)
    seats = [seats[0], seats[-1], *seats[1:-1]]
  return rounds


def _rotation(a: tf.Tensor, pairing: tf.Tensor, is_first: tf.Tensor) -> tf.Tensor:
  """[n, n]: the rotations, one for each pair, that make the pair's entry of `a` 0.

  is_first: bool [n], true for one of each pair.
  """
  diagonal = tf.linalg.diag_part(a)
  entry = tf.reduce_sum(a * pairing, 0)
  difference = tf.linalg.matvec(pairing, diagonal) - diagonal
  # Of a pair, one turns by an angle and the other by its opposite, also at 45 degrees.
  one = tf.where(is_first, tf.ones_like(entry), -tf.ones_like(entry))
  sign = tf.where(tf.equal(difference, 0), one, tf.sign(difference))
  tangent = tf.math.divide_no_nan(
    2 * sign * entry, tf.abs(difference) + tf.sqrt(difference**2 + 4 * entry**2)
  )
  cosine = 1 / tf.sqrt(1 + tangent**2)
  return tf.linalg.diag(cosine) - pairing * (tangent * cosine)


def eigenvectors(a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """The eigenvalues, [n], and eigenvectors, [n, n] by columns, of symmetric `a`, float64 [n, n].

  By Jacobi's method, exact up to rounding. `tf.linalg.eigh` under XLA stops at 1e-6.
  """
  # As a function: its many small operations would be slow in eager mode.
  return (_eigenvectors_in_graph if tf.executing_eagerly() else _eigenvectors)(a)


def _eigenvectors(a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  n = a.shape[0]
  rounds = _pairings(n)
  pairings = tf.constant(np.stack(rounds))
  firsts = tf.constant(np.stack([np.triu(pairing).sum(1) > 0 for pairing in rounds]))

  def turn(i: tf.Tensor, a: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, ...]:
    number = i % len(rounds)
    rotation = _rotation(a, tf.gather(pairings, number), tf.gather(firsts, number))
    a = tf.matmul(rotation, tf.matmul(a, rotation), transpose_a=True)
    return i + 1, a, tf.matmul(v, rotation)

  start = (tf.constant(0), a, tf.eye(n, dtype=tf.float64))
  _, a, v = tf.while_loop(lambda i, *_: i < _SWEEPS * len(rounds), turn, start)
  return tf.linalg.diag_part(a), v


_eigenvectors_in_graph = tf.function(_eigenvectors)


def solve(gram: tf.Tensor, products: tf.Tensor) -> tf.Tensor:
  """float64 [n]: the coefficients rho with the least |x - sum rho_i l_i|; of several, the shortest.

  Args:
    gram: float64 [n, n], <l_i, l_j>. Singular values up to `CUTOFF` times the largest count as 0.
    products: float64 [n], <l_i, x>.
  """
  if gram.shape[0] == 1:
    return tf.math.divide_no_nan(products, gram[0])
  values, vectors = eigenvectors(gram)
  kept = values > CUTOFF * tf.reduce_max(values)
  inverse = tf.where(kept, 1 / tf.where(kept, values, 1), 0)
  return tf.linalg.matvec(vectors, inverse * tf.linalg.matvec(vectors, products, transpose_a=True))


def combine(coefficients: tf.Tensor, vectors: list[Block]) -> Block:
  """The sum of `coefficients`, float32 [r], times the r vectors, in their order."""
  combined = []
  for parts in zip(*vectors, strict=True):
    wide = [structures.widened(x) for x in parts]
    terms = [tf.cast(coefficients[i], x.dtype) * x for i, x in enumerate(wide)]
    combined.append(tf.cast(sum(terms[1:], terms[0]), parts[0].dtype))
  return combined


def project(x: Block, vectors: list[Block]) -> tuple[tf.Tensor, tf.Tensor]:
  """The best approximation of `x`: coefficients, float32 [r]; relative squared error, float64 [].

  A missing vector is all zeros, and its coefficient is 0. The error is computed from the residual
  x - sum rho_i l_i with the coefficients that are sent: `1 - cos^2` would lose all digits for
  parallel vectors. It is 0 for x = 0, and infinite if no coefficients exist (all vectors are 0, a
  coefficient is beyond float32, or x is not finite).
  """
  products = tf.stack([structures.dot(x, l) for l in vectors])
  rows = [[structures.dot(a, b) for b in vectors[: i + 1]] for i, a in enumerate(vectors)]
  entries = [[rows[max(i, j)][min(i, j)] for j in range(len(rows))] for i in range(len(rows))]
  squares = tf.convert_to_tensor(entries)
  coefficients = tf.cast(solve(squares, products), tf.float32)
  residual = [a - b for a, b in zip(x, combine(coefficients, vectors), strict=True)]
  squared_x = structures.dot(x, x)
  error = tf.math.divide_no_nan(structures.dot(residual, residual), squared_x)
  useless = (tf.linalg.trace(squares) <= 0) & (squared_x > 0)
  # At most 1 for a least-squares solution, apart from rounding.
  usable = tf.math.is_finite(error) & ~useless
  return coefficients, tf.where(usable, tf.minimum(error, 1.0), np.inf)
