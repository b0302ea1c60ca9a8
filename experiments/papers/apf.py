"""APF: Chen et al., ICDCS 2021. Published values are those of its Tables I to III."""

import pandas as pd
import tensorflow as tf

from experiments.papers import exhibits
from tff_lowrank import freezing
from tff_lowrank import models

_ACCURACY, _SAVED, _TRANSFER = 'accuracy, %', 'bytes saved, %', 'transfer a round, s'
_FED_AVG = exhibits.Row('FedAvg', 'fed_avg')


def _memory() -> pd.DataFrame:
  """The memory of APF's state beside that of the model, in float32."""
  rows = []
  for label, model, published in (
    ('LeNet-5', models.build_lenet5(), '1.2'),
    ('ResNet-18', models.build_resnet18(), '142'),
    ('LSTM', models.build_keyword_lstm((50, 10), 10), '4.8'),
  ):
    spec = [tf.TensorSpec(v.shape, v.dtype) for v in model.trainable_variables]
    state = tf.function(lambda spec=spec: freezing.initial_state(freezing.Settings(), spec))
    outputs = tf.nest.flatten(state.get_concrete_function().structured_outputs)
    size = sum(t.shape.num_elements() * t.dtype.size for t in outputs)
    rows.append(
      {
        '': label,
        'model, MB': f'{4e-6 * sum(s.shape.num_elements() for s in spec):.2f}',
        'paper: memory of APF, MB': published,
        'memory of APF, MB': f'{1e-6 * size:.2f}',
      }
    )
  return pd.DataFrame(rows)


EXHIBITS: tuple[exhibits.Exhibit | exhibits.Computed, ...] = (
  exhibits.Exhibit(
    'figure_9',
    'Accuracy and frozen share, and Tables I and II: LeNet-5 on CIFAR-10, 2,000 rounds',
    'cifar10_apf_long',
    (
      exhibits.Row('FedAvg', 'fed_avg', {_TRANSFER: '1.02'}),
      exhibits.Row('APF', 'apf', {_SAVED: '63.3', _TRANSFER: '0.74'}),
    ),
    (_ACCURACY, _SAVED, 'total MB', _TRANSFER),
    figure='freezing',
    note='One seed. Savings grow with the rounds: 44 % after 500, 62 % after 2,000, as in the '
    'paper. FedAvg overfits after its best accuracy, 56.7 % in round 400; APF stays above it '
    'throughout and reaches that accuracy with 43 % of the bytes. At 80 % frozen the threshold '
    "is halved, so the frozen share falls once. The paper's seconds are whole rounds of 50 clients "
    'on EC2, ours the simulated transfer at 9 Mbit/s down and 3 Mbit/s up alone.',
  ),
  exhibits.Exhibit(
    'figure_9b',
    'The same with a two-layer LSTM on spoken keywords',
    'keywords_apf',
    (_FED_AVG, exhibits.Row('APF', 'apf', {_SAVED: '54.7'})),
    (_ACCURACY, _SAVED, 'total MB', _TRANSFER),
    note='100 rounds are too few: the frozen share is still rising.',
  ),
  exhibits.Exhibit(
    'figure_10',
    'Aggressive APF: two dense layers on MNIST',
    'mnist_apf_aggressive',
    (
      _FED_AVG,
      exhibits.Row('APF', 'apf', {_SAVED: '16.0'}),
      exhibits.Row('growing periods', 'apf:apf_aggressive=growing', {_SAVED: '53.8'}),
      exhibits.Row('one round', 'apf:apf_aggressive=one_round'),
    ),
    (_ACCURACY, _SAVED, 'total MB'),
    full='cifar10_apf_aggressive',
    note="The paper's values are of ResNet-18 on CIFAR-10.",
  ),
  exhibits.Exhibit(
    'figure_11',
    'Clients of two classes each: LeNet-5 on CIFAR-10, with the baselines of Figures 5 to 7',
    'cifar10_apf_two_classes',
    (
      _FED_AVG,
      exhibits.Row('APF', 'apf'),
      exhibits.Row('partial synchronisation', 'apf_partial_sync'),
      exhibits.Row('permanent freezing', 'apf:apf_control=permanent'),
    ),
    (_ACCURACY, _SAVED, 'total MB'),
    note='As in the paper APF costs no accuracy, permanent freezing does, and partial '
    'synchronisation breaks down.',
  ),
  exhibits.Exhibit(
    'figure_12',
    'The control of freezing periods: LeNet-5 on CIFAR-10, 500 rounds',
    'cifar10_apf',
    (
      _FED_AVG,
      exhibits.Row('APF (AIMD)', 'apf'),
      exhibits.Row('additive', 'apf:apf_control=additive'),
      exhibits.Row('multiplicative', 'apf:apf_control=multiplicative'),
      exhibits.Row('fixed', 'apf:apf_control=fixed'),
      exhibits.Row('permanent freezing', 'apf:apf_control=permanent'),
    ),
    (_ACCURACY, _SAVED, 'total MB'),
    figure='points',
    note='That AIMD is the best cannot be seen at this length: additive and fixed periods freeze '
    'more at equal accuracy.',
  ),
  exhibits.Exhibit(
    'figure_13',
    'Gaia and CMFL beside APF: LeNet-5 on CIFAR-10, 500 rounds',
    'cifar10_apf',
    (
      _FED_AVG,
      exhibits.Row('APF', 'apf'),
      exhibits.Row('partial synchronisation', 'apf_partial_sync'),
      exhibits.Row('Gaia', 'fed_avg:uplink=gaia(0.01)'),
      exhibits.Row('CMFL', 'fed_avg:uplink=cmfl(0.7)'),
    ),
    (_ACCURACY, _SAVED, 'total MB'),
    note='Both save on the uplink only. CMFL at its published threshold excludes nearly all '
    'clients here.',
  ),
  exhibits.Computed(
    'table_3',
    "Memory of APF's state, on the server, or on each client that derives the mask",
    _memory,
    note='The state is four numbers a parameter: two moving averages, the freezing period and its '
    'end. For the time of APF itself, see `python -m benchmarks.method_time`; in the paper it is '
    '1.93 % of a round.',
  ),
)
