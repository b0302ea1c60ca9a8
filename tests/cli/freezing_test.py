"""The freezing methods through the binaries, and their plots."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank.reports import freezing_plots
from tff_lowrank.runs import freezing_trace

FAST = ('--task=digits', '--num_clients=4', '--batch_size=64', '--clients_per_round=2')
SETTINGS = ('--apf_stability_threshold=0.5', '--apf_ema_decay=0.5')
PLOTS = ('frozen_fraction', 'effective_perturbation', 'stabilisation', 'parameters')


def test_run_folder(tmp_path):
  binaries.run('train', *FAST, '--rounds=6', '--method=apf', *SETTINGS, f'--output_dir={tmp_path}')
  metrics = pd.read_csv(tmp_path / 'metrics.csv')
  for column in (
    'frozen_fraction',
    'stability_threshold',
    'freezing_period',
    'effective_perturbation',
    'frozen_fraction_by_tensor/3',
    'freezing_period_by_tensor/q95/0',
    'effective_perturbation_by_tensor/mean/2',
  ):
    assert metrics[column].notna().all(), column
  frozen = metrics['frozen_fraction'].to_numpy()
  assert frozen[0] == 0 and frozen[-1] > 0
  # Two clients send the active of 4,810 floats, as many as the round before left.
  active = np.round(4810 * (1 - np.concatenate([[0], frozen[:-1]])))
  np.testing.assert_allclose(metrics['uplink_bytes'], 2 * 4 * active)
  ledger = pd.read_parquet(tmp_path / 'ledger.parquet')
  down = ledger[ledger['direction'] == 'downlink']
  assert (down['catch_up_bits'] > 0).any() and (down['index_or_mask_bits'] > 0).any()
  flags = json.loads((tmp_path / 'run.json').read_text())['flags']
  assert flags['apf_stability_threshold'] == 0.5 and flags['apf_control'] == 'aimd'
  for plot in PLOTS:
    assert (tmp_path / 'plots' / f'{plot}.png').stat().st_size > 1000
  with np.load(tmp_path / freezing_trace.FILE) as trace:
    ever = sum(int((trace[f'first_frozen_{i}'] >= 1).sum()) for i in range(4))
    assert ever >= round(4810 * frozen[-1])
    assert trace['sample_value'].shape == trace['sample_frozen'].shape == (6, 64)
    # Frozen after a round: the same value after the next.
    value, mask = trace['sample_value'], trace['sample_frozen']
    np.testing.assert_array_equal(value[1:][mask[:-1]], value[:-1][mask[:-1]])
    assert mask.any()
  table = freezing_plots.stabilisation_table(tmp_path)
  assert table['tensor'].tolist() == [
    'dense/kernel',
    'dense/bias',
    'dense_1/kernel',
    'dense_1/bias',
  ]
  assert table['shape'].tolist() == ['64x64', '64', '64x10', '10']
  assert table['size'].sum() == 4810
  assert (table['q05'] <= table['q95']).all()


def test_comparison_with_and_without_freezing(tmp_path):
  binaries.run(
    'compare', *FAST, '--rounds=3',
    '--methods=fed_avg,apf:apf_stability_threshold=0.0,apf_partial_sync', *SETTINGS,
    f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv').set_index('method')
  # Switched off it is FedAvg, model and bytes.
  off = rows.loc['apf:apf_stability_threshold=0.0']
  for column in ('final_accuracy', 'uplink_bytes', 'downlink_bytes'):
    assert off[column] == rows.loc['fed_avg', column]
  assert rows.loc['apf_partial_sync', 'total_bytes'] < off['total_bytes']
  for plot in PLOTS[:2]:
    assert (tmp_path / 'plots' / f'{plot}.png').stat().st_size > 1000
  assert len(freezing_plots.null_curve(tmp_path / 'apf_partial_sync-seed1')) == 3


def test_aggressive_and_rare_checks(tmp_path):
  binaries.run(
    'train', *FAST, '--rounds=4', '--method=apf', '--apf_aggressive=one_round',
    '--apf_check_every=2', '--apf_mask_policy=derived', '--apf_granularity=tensor',
    '--apf_zero_update=stable', f'--output_dir={tmp_path}',
  )  # fmt: skip
  frozen = pd.read_csv(tmp_path / 'metrics.csv')['frozen_fraction']
  assert frozen[0] == 0 and frozen[1] == frozen[2]


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--method=lbgm', '--apf_control=fixed'], '--apf_control has no effect with lbgm'),
    (['--method=apf_partial_sync', '--apf_control=fixed'], '--apf_control has no effect'),
    (['--method=apf', '--apf_ema_decay=1'], 'apf_ema_decay must be below 1'),
    (
      ['--method=apf', '--apf_stability_threshold=0', '--apf_aggressive=growing'],
      "freezes nothing, but `aggressive` is 'growing'",
    ),
  ],
)
def test_refuses_flags_that_do_nothing_or_contradict(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('train', *FAST, *arguments, f'--output_dir={tmp_path}')
