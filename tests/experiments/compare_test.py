from absl import app
import pandas as pd
import pytest

from experiments.reports import table
from tests.experiments import binaries

FAST = ('--task=digits', '--rounds=2', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64')  # fmt: skip


def test_runs_methods_with_seeds_and_settings(tmp_path, capfd):
  binaries.run(
    'compare', *FAST, '--methods=fed_avg,lbgm,lbgm:lbgm_threshold=0.0', '--seeds=1,2',
    '--lbgm_threshold=1.0', f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv')
  assert tuple(rows.columns) == table.COLUMNS
  assert rows['method'].tolist() == ['fed_avg', 'lbgm', 'lbgm:lbgm_threshold=0.0'] * 2
  assert rows['seed'].tolist() == [1, 1, 1, 2, 2, 2]
  by_method = rows[rows['seed'] == 1].set_index('method')
  off = by_method.loc['lbgm:lbgm_threshold=0.0']
  # Switched off it is FedAvg, but for one byte of flags a message.
  assert off['final_accuracy'] == by_method.loc['fed_avg', 'final_accuracy']
  assert off['uplink_bytes'] == by_method.loc['fed_avg', 'uplink_bytes'] + 4
  assert (by_method['total_bytes'] == by_method['uplink_bytes'] + by_method['downlink_bytes']).all()
  assert by_method.loc['fed_avg', 'saving_percent'] == 0
  # All methods saw the same clients.
  clients = {
    label: pd.read_parquet(tmp_path / f'{label}-seed1' / 'ledger.parquet')['client'].tolist()
    for label in by_method.index
  }
  assert len({tuple(c) for c in clients.values()}) == 1
  assert '| fed_avg | 1 | 2 |' in (tmp_path / 'table.md').read_text()
  assert str(tmp_path / 'plots' / 'accuracy_vs_bytes.png') in capfd.readouterr().out


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--methods=fed_avg,sgd'], "--methods: expected some of fed_avg, lbgm, .*, found 'sgd'"),
    (['--methods=fed_avg,fed_avg'], 'expected different methods'),
    (['--methods=fed_avg', '--lbgm_threshold=0.1'], 'does nothing under fed_avg'),
    (['--methods=fed_avg:lbgm_threshold=0.1'], 'lbgm_threshold does nothing under fed_avg'),
    (['--methods=lbgm:lbgm_threshold'], 'expected FLAG=VALUE'),
    (['--methods=lbgm:lbgm_threshold=2'], '--lbgm_threshold: .*2'),
    (['--methods=lbgm:seed=2'], "Expected a flag of a run, found 'seed'"),
    (['--seeds=1,x'], "--seeds: expected whole numbers by commas, found '1,x'"),
    (['--seed=3'], '--seed does nothing here'),
    (['--seeds=1,1'], 'expected different seeds'),
    (['--budget=0'], '--budget must be above 0'),
    (['--uplink_mbps=1,2'], 'expected one network, found 2'),
  ],
)
def test_refuses_bad_flags(tmp_path, arguments, message):
  with pytest.raises(app.UsageError, match=message):
    binaries.run('compare', *FAST, *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())


def read_numbers(folder):
  """What a comparison found, but for timings."""
  table_rows = pd.read_csv(folder / 'table.csv').drop(columns='wall_seconds')
  summary = pd.read_csv(folder / 'summary.csv')
  return table_rows, summary.drop(columns=['wall_seconds', 'wall_seconds_ci95'])


def test_runs_in_parallel_give_the_same_numbers(tmp_path, capfd):
  arguments = (*FAST, '--methods=fed_avg,lbgm:lbgm_threshold=0.5', '--at=bytes')
  binaries.run('compare', *arguments, f'--output_dir={tmp_path / "one"}')
  binaries.run('compare', *arguments, '--jobs=2', f'--output_dir={tmp_path / "two"}')
  for one, two in zip(*map(read_numbers, (tmp_path / 'one', tmp_path / 'two')), strict=True):
    pd.testing.assert_frame_equal(one, two)
  assert 'Wrote' in (tmp_path / 'two' / 'fed_avg-seed1' / 'log.txt').read_text()
  # What is complete is not trained again.
  capfd.readouterr()
  binaries.run('compare', *arguments, '--jobs=2', f'--output_dir={tmp_path / "two"}')
  assert 'Training' not in capfd.readouterr().out


def test_writes_tables_and_report_at_a_budget(tmp_path, capfd):
  binaries.run(
    'compare', *FAST, '--rounds=3', '--methods=fed_avg,lbgm:rounds=2', '--seeds=1,2', '--at=bytes',
    '--budget=0.1', '--uplink_mbps=8', '--downlink_mbps=8', f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv')
  pd.testing.assert_frame_equal(
    rows, pd.read_parquet(tmp_path / 'table.parquet').astype(rows.dtypes), check_like=False
  )
  # Rounds of FedAvg cost 2 clients x 2 directions x 19,240 bytes = 76,960: one is within 0.1 MB.
  fed_avg = rows[rows['method'] == 'fed_avg']
  assert fed_avg['compared_round'].tolist() == [1, 1]
  metrics = pd.read_csv(tmp_path / 'fed_avg-seed2' / 'metrics.csv')
  assert fed_avg['compared_accuracy'].iloc[1] == metrics['eval_accuracy'][0]
  # 38,480 bytes for each client, three times, at 1 MB/s.
  assert fed_avg['simulated_seconds'].tolist() == pytest.approx([0.115, 0.115])
  summary = pd.read_csv(tmp_path / 'summary.csv')
  assert summary['method'].tolist() == ['fed_avg', 'lbgm:rounds=2']
  assert summary['compared_accuracy'][0] == pytest.approx(fed_avg['compared_accuracy'].mean())
  assert (
    '| method | seeds | accuracy | accuracy at 0.1 MB |' in (tmp_path / 'summary.md').read_text()
  )
  assert 'Compared at 0.1 MB' in (tmp_path / 'report.html').read_text()
  assert (tmp_path / 'lbgm:rounds=2-seed1' / 'report.html').exists()
  assert str(tmp_path / 'report.html') in capfd.readouterr().out


def test_slashes_in_labels_stay_in_the_folder(tmp_path):
  with pytest.raises(FileNotFoundError):
    binaries.run(
      'compare', '--task=mnist', f'--methods=fed_avg:data_dir={tmp_path}/../x',
      f'--output_dir={tmp_path / "out"}',
    )  # fmt: skip
  (run,) = (tmp_path / 'out').iterdir()
  assert run.name.startswith('fed_avg:data_dir=%2F') and (run / 'run.json').exists()


def test_a_failed_process_ends_with_1_and_the_log_s_path(tmp_path):
  with pytest.raises(SystemExit, match='1 of 1 runs failed, see .*fed_avg-seed1/log.txt'):
    binaries.run(
      'compare', '--task=mnist', '--methods=fed_avg', f'--data_dir={tmp_path}', '--jobs=2',
      f'--output_dir={tmp_path / "out"}',
    )  # fmt: skip
  assert 'lacks train-images' in (tmp_path / 'out' / 'fed_avg-seed1' / 'log.txt').read_text()
