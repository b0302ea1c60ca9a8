"""FedPara and pFedPara: Hyeon-Woo et al., ICLR 2022, arXiv 2108.06098; published values from it."""

import numpy as np
import pandas as pd
import tensorflow as tf

from experiments.papers import exhibits
from tff_lowrank import layers
from tff_lowrank import models

_ACCURACY, _OWN, _TOTAL = 'accuracy, %', 'own accuracy, %', 'total MB'
_TIMES = 'times fewer bytes'
_LOW_RANK = 'fed_avg:model_family=low_rank'
# Millions of parameters of VGG16 for 10 classes, by gamma: Table 5.
_PARAMETERS = dict(zip((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
                       (1.55, 2.33, 3.31, 4.45, 5.79, 7.33, 9.01, 10.90, 12.92),
                       strict=True))  # fmt: skip


def _ranks() -> pd.DataFrame:
  """Parameters and ranks of one layer, 256 to 256, of rank R = 16, at random weights."""
  rows = []
  forms = [
    ('dense, original', tf.keras.layers.Dense(256, use_bias=False), (256,), '66 K', '256'),
    ('dense, low rank', layers.LowRankDense(256, rank=32, use_bias=False), (256,), '16 K', '32'),
    ('dense, FedPara', layers.FedParaDense(256, rank=16, use_bias=False), (256,), '16 K', '256'),
    ('conv 3 x 3, original', tf.keras.layers.Conv2D(256, 3, use_bias=False), (8, 8, 256), '590 K',
     '256'),
    ('conv 3 x 3, FedPara', layers.FedParaConv2D(256, 3, rank=16, use_bias=False), (8, 8, 256),
     '21 K', '256'),
  ]  # fmt: skip
  tf.keras.utils.set_random_seed(1)
  for label, layer, shape, count, rank in forms:
    layer(tf.zeros((1, *shape)))
    kernel = layer.kernel
    matrix = np.reshape(kernel, (-1, 256)).astype(np.float64)
    parameters = sum(int(tf.size(v)) for v in layer.trainable_variables)
    rows.append(
      {
        '': label,
        'paper: parameters': count,
        'parameters': f'{parameters:,}',
        'paper: maximal rank': rank,
        'rank': str(np.linalg.matrix_rank(matrix, tol=1e-5 * np.linalg.norm(matrix, 2))),
      }
    )
  return pd.DataFrame(rows)


def _parameters() -> pd.DataFrame:
  """VGG16's parameters by gamma."""
  rows = [
    {
      'gamma': f'{gamma}',
      'paper: parameters, 10^6': f'{published:.2f}',
      'parameters, 10^6': f'{_count(gamma) / 1e6:.3f}',
    }
    for gamma, published in _PARAMETERS.items()
  ]
  original = {
    'gamma': 'original',
    'paper: parameters, 10^6': '15.25',
    'parameters, 10^6': f'{models.build_vgg16().count_params() / 1e6:.3f}',
  }
  return pd.DataFrame([original, *rows])


def _count(gamma: float) -> int:
  return models.build_vgg16(family='fedpara', gamma=gamma).count_params()


def _row16(label: str, method: str, accuracy: str, times: str) -> exhibits.Row:
  published = {_ACCURACY: accuracy, _TIMES: times}
  return exhibits.Row(f'{label}, 16 bits up', f'{method}:uplink=float16', published)


def _personal(preset: str, title: str, name: str, note: str = '') -> exhibits.Exhibit:
  rows = (
    exhibits.Row('FedAvg', 'fed_avg'),
    exhibits.Row('local training', 'local_only'),
    exhibits.Row('FedPer', 'fed_per'),
    exhibits.Row('pFedPara', 'pfedpara', {_TIMES: '3.4'}),
    exhibits.Row('pFedPara, head of rank 10', 'pfedpara:fedpara_head_rank=10'),
  )
  measures = (_OWN, _TOTAL, _TIMES)
  return exhibits.Exhibit(name, title, preset, rows, measures, figure='points', note=note)


EXHIBITS = (
  exhibits.Computed(
    'table_1',
    'Parameters and rank of one layer, 256 to 256',
    _ranks,
    note='FedPara (rank 16) and low rank (rank 32) have equally many parameters.',
  ),
  exhibits.Computed('table_5', 'Parameters of VGG16 for 10 classes', _parameters),
  exhibits.Exhibit(
    'table_2',
    'Equal parameters, each at a rate of its own: a CNN on CIFAR-10, IID, 300 rounds',
    'fedpara_cifar10_cnn',
    (
      exhibits.Row('original', 'fed_avg', {_ACCURACY: '83.7'}),
      exhibits.Row('low rank', f'{_LOW_RANK}:client_learning_rate=0.05', {_ACCURACY: '77.6'}),
      exhibits.Row('FedPara', 'fedpara:client_learning_rate=0.2', {_ACCURACY: '82.9'}),
    ),
    (_ACCURACY, _TOTAL),
    full='fedpara_cifar10_vgg16',
    figure='points',
    note="The paper's network is VGG16 at gamma 0.1; the order is the same here, the distances "
    'are smaller.',
  ),
  exhibits.Exhibit(
    'figure_3',
    'Accuracy against bytes, each family at its best rate: two dense layers on Fashion-MNIST, '
    'gamma 0.1, 60 rounds',
    'fedpara_fashion_mnist_rates',
    (
      exhibits.Row('original, rate 0.1', 'fed_avg:client_learning_rate=0.1'),
      exhibits.Row('low rank, rate 0.1', f'{_LOW_RANK}:client_learning_rate=0.1'),
      exhibits.Row('FedPara, rate 0.4', 'fedpara:client_learning_rate=0.4'),
    ),
    (_ACCURACY, _TOTAL),
    figure='points',
  ),
  exhibits.Exhibit(
    'table_3',
    'With other optimizers: dense layers of FedPara on Fashion-MNIST, gamma 0.1, 60 rounds',
    'fedpara_optimizers',
    (
      exhibits.Row('FedAvg', 'fedpara', {_ACCURACY: '82.9'}),
      exhibits.Row('FedProx', 'fed_prox:model_family=fedpara', {_ACCURACY: '79.0'}),
      exhibits.Row('SCAFFOLD', 'scaffold:model_family=fedpara', {_ACCURACY: '84.7'}),
      exhibits.Row('FedDyn', 'fed_dyn:model_family=fedpara', {_ACCURACY: '86.1'}),
      exhibits.Row(
        'FedAdam',
        'fedpara:server_optimizer=adam:server_learning_rate=0.01:client_learning_rate=0.0316',
        {_ACCURACY: '82.5'},
      ),
    ),
    (_ACCURACY, _TOTAL),
    note="The paper's values are of VGG16 on CIFAR-10. As there FedProx is the slowest and "
    'SCAFFOLD above FedAvg; that FedDyn is the best cannot be seen here.',
  ),
  exhibits.Exhibit(
    'table_4',
    'With 16-bit floats on the uplink, as in FedPAQ: dense layers on Fashion-MNIST, gamma 0.5',
    'fedpara_fedpaq',
    (
      exhibits.Row('original', 'fed_avg', {_ACCURACY: '83.7', _TIMES: '1.0'}),
      _row16('original', 'fed_avg', '82.7', '1.3'),
      exhibits.Row('FedPara', 'fedpara', {_ACCURACY: '83.8', _TIMES: '2.6'}),
      _row16('FedPara', 'fedpara', '83.6', '3.5'),
    ),
    (_ACCURACY, _TOTAL, _TIMES),
    note="The paper's values are of VGG16 on CIFAR-10: 122, 91.4, 46.4 and 34.7 MB a client and "
    'round.',
  ),
  _personal(
    'pfedpara_own_data', "Personalised, all of a client's own data: 10 writers of MNIST's digits",
    'figure_5a',
  ),
  _personal(
    'pfedpara_little_data', 'Personalised, 20 % of the data: 10 writers of digits', 'figure_5b',
  ),
  _personal('pfedpara_two_classes', 'Personalised, two classes a client: MNIST', 'figure_5c'),
)  # fmt: skip
