"""The log by hand, and of runs: interrupted or not, it is the same."""

import numpy as np
import pandas as pd

from tests.cli import binaries
from tff_lowrank.runs import client_metrics
from tff_lowrank.simulation import evaluation

FAST = ('--task=digits', '--num_clients=4', '--clients_per_round=2', '--batch_size=64')


def test_a_round_is_a_row_a_client(tmp_path):
  log = client_metrics.ClientMetricsLog(tmp_path)
  log.log.rewind()
  log.add(
    1,
    [
      evaluation.ClientMetrics('007', 0.5, 0.25, 12),
      evaluation.ClientMetrics('nan', 2.0, float('nan'), 1),
    ],
  )
  log.add(2, [])
  log.close()
  table = pd.read_parquet(tmp_path / 'client_metrics.parquet')
  assert table['client'].tolist() == ['007', 'nan'] and table['examples'].tolist() == [12, 1]
  np.testing.assert_array_equal(table['accuracy'], [0.25, np.nan])
  assert table.dtypes.astype(str).to_dict() == dict(
    round='int64', client='object', loss='float64', accuracy='float64', examples='int64'
  )


def test_runs_record_their_clients(tmp_path):
  arguments = (*FAST, '--client_metrics', '--eval_every=2')
  binaries.run('train', *arguments, '--rounds=4', f'--output_dir={tmp_path / "a"}')
  table = pd.read_parquet(tmp_path / 'a' / 'client_metrics.parquet')
  assert table['round'].tolist() == [2, 2, 4, 4] and table['accuracy'].between(0, 1).all()
  assert table['examples'].between(359, 360).all()
  for rounds in (2, 4):
    binaries.run('train', *arguments, f'--rounds={rounds}', f'--output_dir={tmp_path / "b"}')
  pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / 'b' / 'client_metrics.parquet'))
