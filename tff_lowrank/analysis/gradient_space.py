"""Principal components of the gradients of a training run, and overlaps between gradients.

Azam, Hosseinalipour, Qiu, Brinton: Recycling Model Updates in Federated Learning: Are Gradient
Subspaces Low-Rank? ICLR 2022, https://openreview.net/forum?id=B7ZbqNLDn-_, section 2.

For the gradients g_1..g_e of the first e epochs, each a vector of n coordinates:
  A = [g_1 .. g_e], each column minus its mean      principal component analysis where the
  A = U S V^T                                       coordinates are the samples
  N95(e), N99(e)  the smallest number of components with 95 %, 99 % of the sum of S^2
  the principal gradient directions are the columns of A V
Since e is far below n, all of it is computed from the inner products and the coordinate sums:
  A^T A = G - s s^T / n,  G_ij = <g_i, g_j>,  s_i = sum of g_i
The same holds for the whole model, whose G and s are the sums over its tensors, and for the
velocities v_e = m v_(e-1) + g_e with momentum m, which are linear combinations of the g.
"""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import numpy as np

SHARES = (0.95, 0.99)

_BLOCK = 1 << 20
_ROUNDING = 1e-12


class Space(NamedTuple):
  """The gradients of e epochs, for one tensor or for several as one vector.

  gram: float64 [e, e], their inner products.
  sums: float64 [e], the sum of each gradient's coordinates.
  size: the number of coordinates.
  """

  gram: np.ndarray
  sums: np.ndarray
  size: int


def merge(spaces: Sequence[Space]) -> Space:
  """The space of the concatenated gradients, for example of all tensors of a model."""
  return Space(
    functools.reduce(np.add, [space.gram for space in spaces]),
    functools.reduce(np.add, [space.sums for space in spaces]),
    sum(space.size for space in spaces),
  )


def with_momentum(space: Space, momentum: float) -> Space:
  """The space of the velocities v_e = `momentum` v_(e-1) + g_e, v_0 = 0."""
  epochs = np.arange(len(space.sums))
  lags = epochs[:, np.newaxis] - epochs
  weights = np.tril(np.power(float(momentum), np.maximum(lags, 0)))
  return Space(weights @ space.gram @ weights.T, weights @ space.sums, space.size)


def _centred(space: Space) -> np.ndarray:
  return space.gram - np.outer(space.sums, space.sums) / space.size


def _count(variances: np.ndarray, energy: float, share: float) -> int:
  """The number of largest `variances` with at least `share` of their sum; 1 if all are 0.

  Rounding errors count as 0; `energy` is the sum of squares before centring.
  """
  variances = np.where(variances > _ROUNDING * energy, variances, 0)
  cumulative = np.cumsum(np.sort(variances)[::-1])
  return 1 + int(np.count_nonzero(cumulative < share * cumulative[-1] * (1 - _ROUNDING)))


def num_components(space: Space, share: float) -> np.ndarray:
  """int64 [e]: after each epoch, the number of components with `share` of the variance."""
  centred, energies = _centred(space), np.cumsum(np.diag(space.gram))
  counts = [
    _count(np.linalg.eigvalsh(centred[: e + 1, : e + 1]), energy, share)
    for e, energy in enumerate(energies)
  ]
  return np.array(counts, np.int64)


def _norms(space: Space) -> np.ndarray:
  norms = np.sqrt(np.diag(space.gram))
  return np.where(norms > 0, norms, np.inf)


def principal_overlaps(space: Space, share: float) -> np.ndarray:
  """float64 [e, N]: |cos| of each gradient with the N principal directions of all epochs.

  N is the last of `num_components(space, share)`. For a zero gradient it is 0.
  """
  variances, vectors = np.linalg.eigh(_centred(space))
  count = _count(variances, np.trace(space.gram), share)
  largest = np.argsort(-variances, kind='stable')[:count]
  # A centred direction d_i = A v_i has length S_i, and <g, d_i> = <A column of g, d_i>.
  lengths = np.sqrt(np.maximum(variances[largest], 0))
  inner = vectors[:, largest] * lengths
  return np.minimum(np.abs(inner) / _norms(space)[:, np.newaxis], 1)


def self_overlaps(space: Space) -> np.ndarray:
  """float64 [e, e]: |cos| of each gradient with each other; 0 for a zero gradient."""
  norms = _norms(space)
  return np.minimum(np.abs(space.gram) / np.outer(norms, norms), 1)


def consecutive_overlaps(space: Space) -> np.ndarray:
  """float64 [e - 1]: |cos| of each gradient, from the second on, with the previous one."""
  return np.diag(self_overlaps(space), 1)


class History:
  """A sequence of gradients, kept in float32, with their spaces.

  Needs the memory of e models, since new gradients are multiplied with all earlier ones.
  """

  def __init__(self) -> None:
    self._gradients: list[list[np.ndarray]] = []
    self._grams: list[list[list[float]]] = []

  def __len__(self) -> int:
    return len(self._gradients)

  def add(self, gradient: Sequence[np.ndarray]) -> None:
    """Adds the gradient of an epoch, one array per tensor of the model.

    Raises ValueError if the sizes of the tensors differ from those of earlier gradients.
    """
    flat = [np.ravel(np.asarray(g)).astype(np.float32) for g in gradient]
    if self._gradients and [g.size for g in flat] != [g.size for g in self._gradients[0]]:
      raise ValueError(
        f'Expected tensors of sizes {[g.size for g in self._gradients[0]]}, found '
        f'{[g.size for g in flat]}.'
      )
    self._gradients.append(flat)
    self._grams.append(
      [[_dot(old[i], new) for old in self._gradients] for i, new in enumerate(flat)]
    )

  def spaces(self) -> list[Space]:
    """The space of each tensor; empty before the first gradient."""
    if not self._gradients:
      return []
    count = len(self)
    spaces = []
    for i, first in enumerate(self._gradients[0]):
      gram = np.zeros([count, count])
      for epoch, rows in enumerate(self._grams):
        gram[epoch, : epoch + 1] = gram[: epoch + 1, epoch] = rows[i]
      sums = np.array([np.sum(g[i], dtype=np.float64) for g in self._gradients])
      spaces.append(Space(gram, sums, first.size))
    return spaces


def _dot(a: np.ndarray, b: np.ndarray) -> float:
  """The inner product in float64, block by block, to avoid copies of the vectors."""
  return sum(
    float(np.dot(a[i : i + _BLOCK].astype(np.float64), b[i : i + _BLOCK].astype(np.float64)))
    for i in range(0, a.size, _BLOCK)
  )
