import pathlib
import subprocess
import sys

from absl import flags
import pandas as pd
import pytest

from tests.cli import binaries
from tests.reports.run_folders import write_run
from tff_lowrank import ledger
from tff_lowrank.cli import run_flags  # noqa: F401 (defines --output_dir)
from tff_lowrank.reports import run_files

ROOT = pathlib.Path(__file__).resolve().parents[2]


def replay(*arguments):
  # Of the binaries that the tests of a process import, only this one does without.
  binaries.run('replay', *arguments, '--output_dir=unused')


def test_times_by_hand(tmp_path, capsys):
  write_run(tmp_path / 'all' / 'lbgm-seed1', 1, 500_000, 1_000_000, [0.3, 0.4])
  write_run(tmp_path / 'all' / 'fed_avg-seed1', 1, 1_000_000, 1_000_000, [0.5, 0.6])
  csv = tmp_path / 'times.csv'
  replay(
    f'--runs={tmp_path / "all"}', '--uplink_mbps=8,80', '--downlink_mbps=8',
    '--latency_ms=0,500', '--compute_seconds=2', f'--csv={csv}',
  )  # fmt: skip
  rows = pd.read_csv(csv)
  assert rows['run'].map(lambda run: pathlib.Path(run).name).tolist() == [
    'fed_avg-seed1', 'lbgm-seed1'
  ] * 2  # fmt: skip
  assert rows['uplink_mbps'].tolist() == [8, 8, 80, 80]
  assert rows['latency_ms'].tolist() == [0, 0, 500, 500]
  # Client b: 3 MB down, 3 or 1.5 MB up, at 8 or 80 Mbit/s up; two rounds of that, of 2 s of
  # computation, and of twice the latency.
  expected = [2 * (3 + 3 + 2), 2 * (3 + 1.5 + 2), 2 * (3 + 0.3 + 2 + 1), 2 * (3 + 0.15 + 2 + 1)]
  assert rows['simulated_seconds'].tolist() == pytest.approx(expected)
  assert rows['total_bytes'].tolist() == [16e6, 12e6] * 2
  assert rows['final_accuracy'].tolist() == [0.6, 0.4] * 2
  assert 'fed_avg-seed1' in capsys.readouterr().out


def test_folders_with_commas_and_single_runs(tmp_path, capsys):
  first = write_run(tmp_path / 'top_k(0.1, qsgd(7))', 1, 1, 1, [0.5])
  second = write_run(tmp_path / 'b', 1, 1, 1, [0.5])
  replay(f'--runs={first},{second}')
  assert len(capsys.readouterr().out.splitlines()) == 3


def test_refuses_a_ledger_that_lacks_rounds(tmp_path):
  run = write_run(tmp_path / 'a', 1, 1, 1, [0.5])
  after_kill = write_run(tmp_path / 'b', 1, 1, 1, [0.5, 0.5])
  (run / 'ledger.parquet').replace(after_kill / 'ledger.parquet')
  run_files.write_sums(after_kill)
  with pytest.raises(ValueError, match='its ledger.parquet lacks rounds of its metrics.csv'):
    replay(f'--runs={after_kill}')


def test_rounds_without_messages_take_no_time(tmp_path, capsys):
  run = write_run(tmp_path / 'a', 1, 0, 0, [0.5, 0.5])
  ledger.Ledger().write(run / 'ledger.parquet')
  run_files.write_sums(run)
  csv = tmp_path / 'a.csv'
  replay(f'--runs={run}', '--compute_seconds=5', f'--csv={csv}')
  assert pd.read_csv(csv)['simulated_seconds'].tolist() == [0]


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((), '--runs: expected folders of runs, found none'),
    (('--runs=nowhere',), "--runs: expected folders with run.json.*found 'nowhere'"),
  ],
)
def test_refuses_bad_flags(tmp_path, arguments, message):
  run = write_run(tmp_path / 'a', 1, 1, 1, [0.5])
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    replay(*(argument.format(run=run) for argument in arguments))


def test_refuses_impossible_values_and_runs_without_rounds(tmp_path):
  run = write_run(tmp_path / 'a', 1, 1, 1, [0.5])
  with pytest.raises(flags.IllegalFlagValueError, match='compute_seconds'):
    replay(f'--runs={run}', '--compute_seconds=-1')
  (run / 'ledger.parquet').unlink()
  run_files.write_sums(run)
  with pytest.raises(ValueError, match='without rounds to replay'):
    replay(f'--runs={run}')


def test_a_process_ends_with_2_and_loads_no_tff(tmp_path):
  run = write_run(tmp_path / 'a', 1, 1_000_000, 1, [0.5])
  code = (
    'import runpy, sys\n'
    f"sys.argv = ['replay', *{[f'--runs={run}', '--uplink_mbps=24']}]\n"
    "try:\n  runpy.run_module('experiments.replay', run_name='__main__')\n"
    "finally:\n  print([m for m in ('tensorflow', 'tensorflow_federated') if m in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 0, done.stderr
  assert '1.000' in done.stdout or ' 1.0' in done.stdout
  assert done.stdout.splitlines()[-1] == '[]'
  done = subprocess.run(
    [sys.executable, '-m', 'experiments.replay', '--runs=nowhere'],
    cwd=ROOT, capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 2
  assert 'nowhere' in done.stderr and 'Traceback' not in done.stderr
