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
