"""Advice through its binary: predictions against runs."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank import methods
from tff_lowrank.cli import advise

FAST = ('--task=digits', '--num_clients=4', '--batch_size=64', '--clients_per_round=0')


def few(monkeypatch):
  values = dict(fed_avg=('top_k(0.1)',), lbgm=(0.2,), apf=(0.3,), fedpara=(0.1,))
  for method, tried in values.items():
    record = methods.METHODS[method]
    smaller = dataclasses.replace(record, tried=(record.tried[0], tried))
    monkeypatch.setitem(methods.METHODS, method, smaller)
    monkeypatch.setitem(advise.TRIED, method, smaller.tried)


def test_predictions_against_runs(tmp_path, monkeypatch):
  few(monkeypatch)
  arguments = ('--rounds=6', '--partition=shards:3', '--apf_ema_decay=0.5', '--measure')
  binaries.run('advise', *FAST, *arguments, f'--output_dir={tmp_path}')
  table = pd.read_csv(tmp_path / 'advice.csv')
  assert table['method'].tolist() == ['fed_avg', 'fed_avg', 'apf', 'fedpara', 'lbgm']
  tested = table.dropna(subset='measured_total_saved').set_index('setting')
  assert len(tested) == 4
  # The first round is as recorded, and so are later ones as long as little is lost.
  close = abs(tested['total_saved'] - tested['measured_total_saved'])
  assert close['lbgm_threshold=0.2'] < 0.1 and close['apf_stability_threshold=0.3'] < 0.05
  # What top-K sends depends on the updates by some bits of indices only.
  assert close['uplink=top_k(0.1)'] < 1e-3
  assert tested['measured_uplink_saved']['lbgm_threshold=0.2'] > 0.2
  assert tested['frozen']['apf_stability_threshold=0.3'] > 0
  # At gamma 0.1 kernels of 64 x 64 and 64 x 10 have ranks 9 and 4: r_min and r_max are 8 and 16,
  # 4 and 4. 2 R (m + n) + biases = 2 * 9 * 128 + 64 + 2 * 4 * 74 + 10 = 2970, of 4810.
  assert tested['total_saved']['fedpara_gamma=0.1'] == pytest.approx(1 - 2970 / 4810)
  assert close['fedpara_gamma=0.1'] < 1e-4
  errors = table.set_index('setting')['error']
  assert 0 < errors['apf_stability_threshold=0.3'] < errors['lbgm_threshold=0.2'] < 1
  suggested = table[table['suggested']]
  assert (suggested['error'] <= 0.05).all() and suggested['method'].is_unique
  assert (table['measured_accuracy'][0] - suggested['measured_accuracy'] <= 0.02).all()
  assert (tmp_path / 'plots' / 'savings.png').stat().st_size > 1000
  layers = pd.read_csv(tmp_path / 'layers.csv')
  assert layers['shape'].tolist() == ['64x64', '64', '64x10', '10']
  assert layers['consecutive_overlap'].between(0, 1).all()
  assert np.all(layers['n95'] <= layers['n99'])
  flags = json.loads((tmp_path / 'run.json').read_text())['flags']
  assert (flags['method'], flags['measure']) == ('fed_avg', True)
  assert (flags['apf_ema_decay'], flags['lbgm_granularity']) == (0.5, 'tensor')
  assert not {name for name, _ in advise.TRIED.values()} & set(flags)
  text = (tmp_path / 'advice.md').read_text()
  assert 'measured total saved' in text and '| dense/kernel | 64x64 |' in text


def test_none_is_suggested_that_was_measured_to_be_harmful():
  nan = np.nan
  table = pd.DataFrame(
    dict(
      method=['fed_avg', 'a', 'a', 'a', 'b', 'c'],
      total_saved=[nan, 0.1, 0.3, 0.5, 0.2, 0.2],
      error=[nan, 0.0, 0.04, 0.06, 0.0, 0.0],
      measured_accuracy=[0.9, 0.95, 0.88, 0.9, 0.86, nan],
    )
  )
  assert advise._suggest(table, 0.05, 0.03).tolist() == [False, False, True, False, True, True]
  table['measured_total_saved'] = table['total_saved']
  assert advise._suggest(table, 0.05, 0.03).tolist() == [False, False, True] + 3 * [False]
  assert advise._suggest(table, 0.05, 0.01).tolist() == [False, True] + 4 * [False]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--lbgm_threshold=0.3'], '--lbgm_threshold has no effect here: advise tries several values'),
    (['--fed_prox_mu=0.3'], '--fed_prox_mu has no effect with apf, fed_avg, fedpara, lbgm'),
    (['--dropout_rate=0.3'], '--dropout_rate has no effect here'),
    (['--patience=3'], '--patience has no effect here'),
    (['--apf_ema_decay=1'], 'apf_ema_decay must be below 1'),
  ],
)
def test_refuses_flags_that_do_nothing(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('advise', *FAST, *arguments, f'--output_dir={tmp_path / "x"}')
  assert not (tmp_path / 'x').exists()
