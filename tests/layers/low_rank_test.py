"""The plain low-rank baseline: its kernels, and its size against FedPara's."""

import numpy as np
import pytest

from tff_lowrank import layers


@pytest.mark.parametrize(
  'layer, shape, expected',
  [
    # 24 * (256 + 128) + 128: FedPara's 9344 at half the rank.
    (layers.LowRankDense(128, rank=24), (256,), 9344),
    # 5 * (5 + 8) + 25 * 6 + 8, and as a matrix 5 * (30 + 8) + 8.
    (layers.LowRankConv2D(8, (2, 3), rank=5), (6, 6, 5), 223),
    (layers.LowRankConv2D(8, (2, 3), rank=5, form='matrix'), (6, 6, 5), 198),
    (layers.LowRankEmbedding(30, 8, rank=4), (4,), 152),
  ],
)
def test_counts_by_hand(layer, shape, expected):
  layer.build((None, *shape))
  assert layer.count_params() == expected


@pytest.mark.parametrize('gamma', [0.0, 0.1, 0.5, 0.9, 1.0])
def test_size_is_fedparas(gamma):
  for name, arguments, shape in [
    ('Dense', (256,), (784,)),
    ('Embedding', (500, 64), (3,)),
    ('LSTM', (64,), (5, 32)),
    ('GRU', (64,), (5, 32)),
    ('Conv2D', (128, 3), (8, 8, 64)),
  ]:
    counts = []
    for prefix in ('LowRank', 'FedPara'):
      layer = getattr(layers, prefix + name)(*arguments, gamma=gamma)
      layer.build((None, *shape))
      counts.append(layer.count_params())
    if name == 'Conv2D':
      assert abs(counts[0] / counts[1] - 1) < 0.06
    else:
      assert counts[0] == counts[1]


def test_kernel_is_low_rank_and_of_hes_size(rng):
  layer = layers.LowRankDense(200, rank=7, dtype='float64')
  layer(rng.normal(size=(2, 300)))
  assert np.linalg.matrix_rank(layer.kernel) == 7
  np.testing.assert_allclose(np.std(layer.kernel), np.sqrt(2 / 300), rtol=0.15)
  layer = layers.LowRankConv2D(20, 3, rank=4, dtype='float64')
  layer(rng.normal(size=(2, 5, 5, 30)))
  assert np.linalg.matrix_rank(np.reshape(layer.kernel, (-1, 20))) == 4


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='Exactly one'):
    layers.LowRankDense(4, rank=1, budget=0.5)
  with pytest.raises(TypeError, match='unexpected keyword|not understood'):
    layers.LowRankDense(4, rank=1, personal=True)
