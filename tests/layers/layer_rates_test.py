"""Fixed factors, whose largest eigenvalue stands clear: what finds it is an iteration."""

import numpy as np
import pytest

from benchmarks import layer_rates
from tff_lowrank import layers


def assign(kernel, rng):
  """Random factors whose first column is four times as long as the second; returns them."""
  values = {n: rng.normal(size=v.shape) * [2, 0.5] for n, v in kernel.factors.items()}
  for name, value in values.items():
    kernel.factors[name].assign(value)
  return values


def test_movement_of_a_low_rank_kernel(rng):
  """K = X Y^T moves by G Y Y^T + X X^T G, whose eigenvalues are sums of one of each."""
  layer = layers.LowRankDense(5, rank=2)
  layer.build((None, 12))
  kernel = layer.factored_kernels['kernel']
  x, y = assign(kernel, rng).values()
  largest, mean = layer_rates.movement(kernel)
  assert {x.shape, y.shape} == {(12, 2), (5, 2)}
  assert largest == pytest.approx(np.linalg.norm(x, 2) ** 2 + np.linalg.norm(y, 2) ** 2, rel=1e-3)
  exact = (x**2).sum() / len(x) + (y**2).sum() / len(y)
  assert mean == pytest.approx(exact, rel=0.5)  # From five probes of 60 numbers.


def test_movement_by_the_personal_factors_alone(rng):
  """K = W1 * (Y2 X2^T + 1): J of the factors of W2, number by number."""
  layer = layers.FedParaDense(3, rank=2, personal=True)
  layer.build((None, 4))
  kernel = layer.factored_kernels['kernel']
  f = assign(kernel, rng)
  w1 = f['y1'] @ f['x1'].T
  x2, y2 = f['personal_x2'], f['personal_y2']
  columns = []
  for i, j in np.ndindex(*x2.shape):
    columns.append((w1 * np.outer(y2[:, j], np.eye(3)[i])).ravel())
  for i, j in np.ndindex(*y2.shape):
    columns.append((w1 * np.outer(np.eye(4)[i], x2[:, j])).ravel())
  j = np.stack(columns, axis=1)
  largest, _ = layer_rates.movement(kernel, layers.is_personal)
  assert largest == pytest.approx(np.linalg.norm(j @ j.T, 2), rel=1e-2)
