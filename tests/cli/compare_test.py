import pandas as pd
import pytest

from tests.cli import binaries
from tests.reports.run_folders import write_run
from tff_lowrank.reports import run_files
from tff_lowrank.reports import table
from tff_lowrank.runs import recorder
from tff_lowrank.runs import runner

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


def test_an_interrupted_comparison_goes_on_to_the_same_table(tmp_path, monkeypatch, capfd):
  methods = '--methods=fed_avg,fed_avg:batch_size=32'
  arguments = (*FAST, '--rounds=3', '--checkpoint_every=2', methods)
  binaries.run('compare', *arguments, f'--output_dir={tmp_path / "whole"}')
  parts, record, calls = tmp_path / 'parts', recorder.Recorder.record, []

  def failing(self, done, evaluated):
    calls.append(done.number)
    if len(calls) in (2, 6):  # Before the checkpoint of the first run, and at the end of the other.
      raise OSError('power cut')
    return record(self, done, evaluated)

  with monkeypatch.context() as patch:
    patch.setattr(recorder.Recorder, 'record', failing)
    for _ in range(2):
      with pytest.raises(OSError, match='power cut'):
        binaries.run('compare', *arguments, f'--output_dir={parts}')
      assert not (parts / 'table.csv').exists()
  assert calls == [1, 2, 1, 2, 3, 1]
  capfd.readouterr()
  binaries.run('compare', *arguments, f'--output_dir={parts}')
  assert f'{parts / "fed_avg-seed1"} is finished' in capfd.readouterr().out
  whole, found = (
    pd.read_csv(tmp_path / name / 'table.csv').drop(columns='wall_seconds')
    for name in ('whole', 'parts')
  )
  pd.testing.assert_frame_equal(whole, found)
  assert found['simulated_seconds'].gt(0).all()


def test_runs_stay_in_the_folder_whatever_a_method_is_given():
  assert run_files.run_name('lbgm:lbgm_threshold=0.4', 1) == 'lbgm:lbgm_threshold=0.4-seed1'
  name = run_files.run_name('fed_avg:data_dir=../../<b>|x', 2)
  assert name == 'fed_avg:data_dir=..%2F..%2F%3Cb%3E%7Cx-seed2'
  assert run_files.run_name('fed_avg:uplink=top_k(0.1, qsgd(7))', 1).startswith(
    'fed_avg:uplink=top_k(0.1, qsgd(7))-'
  )


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--methods=fed_avg,sgd'], "--methods: method must be one of fed_avg, .*, found 'sgd'"),
    (['--methods=fed_avg,fed_avg'], 'expected different methods'),
    (['--methods=fed_avg', '--lbgm_threshold=0.1'], 'has no effect with fed_avg'),
    (['--methods=fed_avg:lbgm_threshold=0.1'], 'lbgm_threshold has no effect with fed_avg'),
    (['--methods=lbgm:lbgm_threshold'], 'expected FLAG=VALUE'),
    (['--methods=lbgm:lbgm_threshold=2'], '--lbgm_threshold: .*2'),
    (['--methods=lbgm:seed=2'], 'found seed: use --seeds'),
    (['--seeds=1,x'], "--seeds: expected whole numbers separated by commas, found '1,x'"),
    (['--seed=3'], '--seed has no effect here'),
    (['--seeds=1,1'], 'expected different seeds'),
    (['--budget=0'], '--budget must be above 0'),
    (['--uplink_mbps=1,2'], 'expected one network, found 2'),
  ],
)
def test_refuses_bad_flags(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('compare', *FAST, '--methods=fed_avg', *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())


def test_runs_in_processes_of_their_own(tmp_path, capfd):
  binaries.run('train', *FAST, f'--output_dir={tmp_path / "here"}')
  broken = f'fed_avg:task=mnist:data_dir={tmp_path}'
  arguments = (*FAST, '--jobs=2', f'--output_dir={tmp_path / "out"}')
  with pytest.raises(SystemExit, match='1 of 2 runs failed, see .*seed1/log.txt'):
    binaries.run('compare', *arguments, f'--methods=fed_avg,{broken}')
  # Slashes in labels stay in the folder.
  failed, run = sorted((tmp_path / 'out').iterdir(), key=lambda path: 'mnist' not in path.name)
  assert failed.name.startswith('fed_avg:task=mnist:data_dir=%2F')
  assert 'lacks train-images' in (failed / 'log.txt').read_text()
  assert run.name == 'fed_avg-seed1' and 'All files are in' in (run / 'log.txt').read_text()
  there, here = (
    pd.read_csv(folder / 'metrics.csv').drop(columns='round_seconds')
    for folder in (run, tmp_path / 'here')
  )
  pd.testing.assert_frame_equal(there, here)
  # What is complete is not trained again.
  capfd.readouterr()
  binaries.run('compare', *arguments, '--methods=fed_avg')
  assert 'Training' not in capfd.readouterr().out
  assert len(pd.read_csv(tmp_path / 'out' / 'table.csv')) == 1


def test_writes_tables_and_report_at_a_budget(tmp_path, capfd, monkeypatch):
  def pretend(spec, run, label, saving):
    accuracies = [0.1 * r + 0.02 * spec.seed for r in range(1, spec.rounds + 1)]
    write_run(run, spec.seed, 4000 if spec.method == 'fed_avg' else 1000, 4000, accuracies)

  monkeypatch.setattr(runner, 'train', pretend)
  binaries.run(
    'compare', *FAST, '--rounds=3', '--methods=fed_avg,lbgm:rounds=2', '--seeds=1,2', '--at=bytes',
    '--budget=0.07', '--uplink_mbps=8', '--downlink_mbps=8', f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv')
  pd.testing.assert_frame_equal(
    rows, pd.read_parquet(tmp_path / 'table.parquet').astype(rows.dtypes)
  )
  # Four times what client a has: FedAvg spends 32,000 bytes a round and LBGM 20,000.
  assert rows['compared_round'].tolist() == [2, 2, 2, 2]
  assert rows['rounds'].tolist() == [3, 2, 3, 2]
  assert rows['compared_accuracy'].tolist() == pytest.approx([0.22, 0.22, 0.24, 0.24])
  assert rows['final_accuracy'].tolist() == pytest.approx([0.32, 0.22, 0.34, 0.24])
  # Client b: 24,000 and 15,000 bytes a round at 1 MB/s.
  assert rows['simulated_seconds'].tolist() == pytest.approx([0.072, 0.03] * 2)
  summary = pd.read_csv(tmp_path / 'summary.csv')
  assert summary['method'].tolist() == ['fed_avg', 'lbgm:rounds=2']
  assert summary['compared_accuracy'].tolist() == pytest.approx([0.23, 0.23])
  assert summary['pareto'].tolist() == ['yes', 'yes']
  # Student's t for one degree of freedom: 12.706.
  half = 12.706 * 0.02 / 2
  assert summary['compared_accuracy_ci95'].tolist() == pytest.approx([half] * 2, rel=1e-4)
  text = (tmp_path / 'summary.md').read_text()
  assert '| method | seeds | accuracy | accuracy at 0.07 MB |' in text
  assert 'compared at 0.07 MB' in (tmp_path / 'report.html').read_text()
  printed = capfd.readouterr().out
  assert text in printed and str(tmp_path / 'report.html') in printed


def test_without_a_budget_it_is_what_the_cheapest_spent(tmp_path, monkeypatch):
  def pretend(spec, run, label, saving):
    write_run(run, spec.seed, 4000 if spec.method == 'fed_avg' else 1000, 4000, [0.1, 0.2, 0.3])

  monkeypatch.setattr(runner, 'train', pretend)
  binaries.run(
    'compare', *FAST, '--methods=fed_avg,lbgm', '--at=seconds', f'--output_dir={tmp_path}'
  )
  # LBGM's three rounds take b 3 x 8 x (12,000 / 9 + 3,000 / 3) / 10^6 = 0.056 s, FedAvg's
  # 8 x (12,000 / 9 + 12,000 / 3) / 10^6 = 0.0427 s each.
  assert pd.read_csv(tmp_path / 'table.csv')['compared_round'].tolist() == [1, 3]
