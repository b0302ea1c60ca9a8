import numpy as np
import pytest

from benchmarks import layer_rates
from tff_lowrank import layers


def test_movement_of_a_low_rank_kernel():
  """K = X Y^T moves by G Y Y^T + X X^T G, whose eigenvalues are sums of one of each."""
  layer = layers.LowRankDense(5, rank=2)
  layer.build((None, 12))
  largest, mean = layer_rates.movement(layer.factored_kernels['kernel'])
  x, y = (v.numpy().astype(np.float64) for v in layer.factored_kernels['kernel'].factors.values())
  assert {x.shape, y.shape} == {(12, 2), (5, 2)}
  assert largest == pytest.approx(np.linalg.norm(x, 2) ** 2 + np.linalg.norm(y, 2) ** 2, rel=1e-3)
  exact = (x**2).sum() / len(x) + (y**2).sum() / len(y)
  assert mean == pytest.approx(exact, rel=0.5)  # From five probes of 60 numbers.


def test_movement_by_the_personal_factors_alone():
  """K = W1 * (Y2 X2^T + 1): J of the factors of W2, number by number."""
  layer = layers.FedParaDense(3, rank=2, personal=True)
  layer.build((None, 4))
  kernel = layer.factored_kernels['kernel']
  f = {name: v.numpy().astype(np.float64) for name, v in kernel.factors.items()}
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
