"""Runs that are interrupted, killed, finished, continued, or started twice."""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest

from tests.cli import binaries
from tests.client_state import damages
from tff_lowrank.cli import entry
from tff_lowrank.runs import provenance
from tff_lowrank.runs import recorder
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import folder_lock
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import rounds
from tff_lowrank.simulation import stopping

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAST = ('--task=digits', '--num_clients=4', '--clients_per_round=2', '--batch_size=64',
        '--checkpoint_every=2')  # fmt: skip
LBGM = ('--method=lbgm', '--lbgm_threshold=0.4')
APF = ('--method=apf', '--apf_stability_threshold=0.5', '--apf_ema_decay=0.5')
ABSENT = ('--dropout_rate=0.3', '--straggler_deadline=0.12', '--server_optimizer=adam',
          '--server_learning_rate=0.01', '--client_rate_decay=0.8')  # fmt: skip
DROPOUT = ('--task=emnist', '--data_dir=synthetic', '--partition=natural', '--num_clients=0',
           '--batch_size=4')  # fmt: skip


def train(folder, *arguments):
  binaries.run('train', *FAST, *arguments, f'--output_dir={folder}')


def read(folder):
  """All that a run's numbers are."""
  metrics = pd.read_csv(folder / 'metrics.csv').drop(columns='round_seconds')
  return metrics, pd.read_parquet(folder / 'ledger.parquet')


OF_ONE_RUN = ('started', 'resumed', 'wall_seconds', 'client_memory_identity')


def record_of(folder):
  """What run.json says of a run, but when it ran and where it kept client memory."""
  record = json.loads((folder / 'run.json').read_text())
  del record['flags']['client_memory'], record['client_memory']
  return {k: v for k, v in record.items() if k not in OF_ONE_RUN}


def assert_same(a, b):
  for one, other in zip(read(a), read(b), strict=True):
    pd.testing.assert_frame_equal(one, other)
  assert record_of(a) == record_of(b) and record_of(a)['status'] == 'completed'


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An LBGM run of 7 rounds that nothing happened to."""
  folder = tmp_path_factory.mktemp('whole')
  train(folder, '--rounds=7', *LBGM)
  return folder


def fail_after(monkeypatch, number):
  """Lets a run fail in the round after `number`, once its checkpoint, if any, is written."""
  record = recorder.Recorder.record

  def failing(self, done, evaluated):
    if done.number > number:
      raise RuntimeError('power cut')
    return record(self, done, evaluated)

  monkeypatch.setattr(recorder.Recorder, 'record', failing)


def interrupt_and_go_on(folder, monkeypatch, flags):
  for stop in (3, 4):  # Between two checkpoints, and at one.
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='power cut'):
      fail_after(patch, stop)
      train(folder, '--rounds=7', *flags)
    record = json.loads((folder / 'run.json').read_text())
    assert (record['status'], record['error']) == ('failed', 'RuntimeError: power cut')
  train(folder, '--rounds=7', *flags)
  record = json.loads((folder / 'run.json').read_text())
  assert record['status'] == 'completed' and len(record['resumed']) == 2
  assert 'error' not in record


@pytest.mark.parametrize('memory', ['ram', 'disk'])
def test_goes_on_as_if_nothing_had_happened(tmp_path, monkeypatch, whole, memory):
  interrupt_and_go_on(tmp_path, monkeypatch, (*LBGM, f'--client_memory={memory}'))
  assert_same(whole, tmp_path)


@pytest.mark.parametrize('flags', [APF, ABSENT, DROPOUT], ids=['apf', 'absent', 'dropout'])
def test_all_else_that_a_run_remembers_goes_on(tmp_path, monkeypatch, flags):
  train(tmp_path / 'whole', '--rounds=7', *flags)
  interrupt_and_go_on(tmp_path / 'parts', monkeypatch, flags)
  assert_same(tmp_path / 'whole', tmp_path / 'parts')
  for trace in tmp_path.glob('whole/*.npz'):
    assert (tmp_path / 'parts' / trace.name).read_bytes() == trace.read_bytes()


def test_a_complete_run_does_nothing_and_more_rounds_continue(tmp_path, capfd, whole):
  train(tmp_path, '--rounds=3', *LBGM)
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.*')}
  capfd.readouterr()
  train(tmp_path, '--rounds=3', *LBGM)
  assert 'is finished, with 3 rounds; there is nothing to do' in capfd.readouterr().out
  for path, changed in before.items():
    assert path.name == folder_lock.FILE or path.stat().st_mtime_ns == changed, path
  train(tmp_path, '--rounds=7', *LBGM)
  assert_same(whole, tmp_path)
  record = (tmp_path / 'run.json').read_bytes()
  with pytest.raises(ValueError, match='has 7 rounds already, more than --rounds=4'):
    train(tmp_path, '--rounds=4', *LBGM)
  assert (tmp_path / 'run.json').read_bytes() == record
  assert len(read(tmp_path)[0]) == 7


def test_a_change_that_may_change_digits_is_told_and_recorded(tmp_path, monkeypatch, caplog):
  train(tmp_path, '--rounds=2')
  record = json.loads((tmp_path / 'run.json').read_text())
  threads = record['numerics']['intra_op_threads']
  assert record['numerics'].keys() == provenance.numerics().keys() and 'changed' not in record
  train(tmp_path, '--rounds=3')
  assert not [r for r in caplog.records if 'last digits' in r.getMessage()]
  monkeypatch.setenv('TF_NUM_INTRAOP_THREADS', '7')
  train(tmp_path, '--rounds=4')
  change = f'intra_op_threads was {threads} and is 7'
  (told,) = [r.getMessage() for r in caplog.records if 'last digits' in r.getMessage()]
  assert change in told
  record = json.loads((tmp_path / 'run.json').read_text())
  assert record['changed'] == [change] and record['numerics']['intra_op_threads'] == '7'


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='there is one core')
# XLA's engine, and TensorFlow's.
@pytest.mark.parametrize('task', ['mnist_two_fc', pytest.param('mnist', marks=pytest.mark.slow)])
def test_numbers_do_not_depend_on_the_number_of_cores(tmp_path, task):
  cores = sorted(os.sched_getaffinity(0))
  command = [sys.executable, '-m', 'experiments.train', f'--task={task}', '--data_dir=synthetic',
             '--num_clients=4', '--clients_per_round=4', '--rounds=3', '--batch_size=10',
             '--client_epochs=3', '--uplink=error_feedback(top_k(0.1))']  # fmt: skip
  for count in (1, 2):
    subprocess.run(
      [*command, f'--output_dir={tmp_path}/{count}'],
      cwd=ROOT,
      check=True,
      preexec_fn=functools.partial(os.sched_setaffinity, 0, cores[:count]),
    )
  for one, other in zip(read(tmp_path / '1'), read(tmp_path / '2'), strict=True):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_other_flags_are_refused_and_named(tmp_path):
  train(tmp_path, '--rounds=2', *LBGM)
  with pytest.raises(
    manifest.MismatchError, match='another run: --lbgm_threshold is 0.4 there and 0.3 here'
  ):
    train(tmp_path, '--rounds=3', *LBGM, '--lbgm_threshold=0.3')
  assert json.loads((tmp_path / 'run.json').read_text())['status'] == 'completed'


def test_a_damaged_newest_checkpoint_falls_back(tmp_path, caplog, whole):
  train(tmp_path, '--rounds=6', *LBGM, '--client_memory=disk')
  state = tmp_path / 'checkpoints' / 'round_0000000006' / 'state.safetensors'
  data = bytearray(state.read_bytes())
  data[-1] ^= 1
  state.write_bytes(data)
  train(tmp_path, '--rounds=7', *LBGM, '--client_memory=disk')
  assert 'round_0000000006 cannot be used: state.safetensors is damaged' in caplog.text
  assert_same(whole, tmp_path)


def test_edited_metrics_are_not_appended_to(tmp_path):
  train(tmp_path, '--rounds=2', *LBGM)
  path = tmp_path / 'metrics.csv'
  path.write_text(path.read_text().replace('1,', '7,', 1))
  with pytest.raises(
    manifest.DamagedError, match='metrics.csv does not start with the content that was'
  ):
    train(tmp_path, '--rounds=3', *LBGM)


def test_two_runs_in_one_folder(tmp_path):
  with folder_lock.FolderLock(tmp_path):
    with pytest.raises(BlockingIOError, match='in use by another run, process'):
      train(tmp_path, '--rounds=2')
  assert not (tmp_path / 'run.json').exists()


def test_a_signal_ends_it_with_a_checkpoint(tmp_path, monkeypatch, whole):
  record = recorder.Recorder.record

  def signalling(self, done, evaluated):
    if done.number == 3:
      signal.raise_signal(signal.SIGTERM)
    return record(self, done, evaluated)

  with monkeypatch.context() as patch:
    patch.setattr(recorder.Recorder, 'record', signalling)
    with pytest.raises(stopping.Stopped, match='after round 3 of 7; saved in') as stopped:
      train(tmp_path, '--rounds=7', *LBGM)
  assert stopped.value.exit_status == 128 + signal.SIGTERM
  assert json.loads((tmp_path / 'run.json').read_text())['status'] == 'stopped'
  assert len(read(tmp_path)[0]) == 3
  train(tmp_path, '--rounds=7', *LBGM)
  assert_same(whole, tmp_path)


def test_a_full_disk_is_told_and_mended(tmp_path, monkeypatch, whole):
  append = append_log.AppendLog.append
  calls = []

  def failing(self, data):
    calls.append(data)
    if len(calls) == 6:  # The row of round 3.
      raise OSError(28, 'No space left on device')
    append(self, data)

  with monkeypatch.context() as patch, pytest.raises(OSError, match='No space left'):
    patch.setattr(append_log.AppendLog, 'append', failing)
    train(tmp_path, '--rounds=7', *LBGM)
  train(tmp_path, '--rounds=7', *LBGM)
  assert_same(whole, tmp_path)


def test_a_deleted_folder_is_told(tmp_path, monkeypatch):
  folder = tmp_path / 'run'
  run_rounds = rounds.run_rounds

  def deleting(*arguments, **options):
    shutil.rmtree(folder)
    return run_rounds(*arguments, **options)

  monkeypatch.setattr(rounds, 'run_rounds', deleting)
  with pytest.raises(OSError, match='the checkpoint of round 2 could not be written'):
    train(folder, '--rounds=3')


def test_everybody_absent_in_every_round(tmp_path):
  train(tmp_path, '--rounds=2', *LBGM, '--dropout_rate=1')
  metrics, ledger = read(tmp_path)
  assert metrics['dropped_clients'].tolist() == metrics['participants'].tolist() == [2, 2]
  assert metrics['train_loss'].isna().all() and len(ledger) == 0
  assert metrics['eval_loss'].nunique() == 1  # The model is as it was.
  assert (metrics['cumulative_uplink_bytes'] == 0).all()


def assert_same_tables(a, b):
  for name in ('table.csv', 'trials.csv', 'pareto.csv'):
    if (a / name).exists():
      one, other = (pd.read_csv(folder / name) for folder in (a, b))
      lost = [name for name in ('wall_seconds', 'command') if name in one]
      pd.testing.assert_frame_equal(one.drop(columns=lost), other.drop(columns=lost))


SAME = dict(train=assert_same, compare=assert_same_tables, tune=assert_same_tables)


def kill(folder, kills, seed, binary, *flags):
  done = subprocess.run(
    [sys.executable, '-m', 'tests.cli.killed_runs', str(folder), str(kills), str(seed),
     binary, *FAST, *flags],
    cwd=ROOT, capture_output=True, text=True, timeout=3000,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  runs = sorted(folder.glob('killed-*/'))
  assert runs
  for run in runs:
    SAME[binary](folder / 'whole', run)
  return done.stdout


def test_killed_runs_end_as_if_they_had_not_been(tmp_path):
  kill(tmp_path, 2, 1, 'train', '--rounds=12', *LBGM, '--client_memory=disk')


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [LBGM, (*LBGM, '--client_memory=disk'), APF],
  ids=['ram', 'disk', 'apf'],
)
def test_many_kills(tmp_path, flags):
  print(kill(tmp_path, 30, 2, 'train', '--rounds=30', *flags))


@pytest.mark.slow
@pytest.mark.parametrize(
  'binary, flags',
  [
    ('compare', ('--methods=fed_avg,lbgm,apf', '--jobs=2')),
    ('tune', ('--search=client_learning_rate=log:0.01:1', '--trials=3', '--objectives=accuracy',
              '--prune', '--seeds=1,2')),
  ],
)  # fmt: skip
def test_many_kills_of_comparisons_and_studies(tmp_path, binary, flags):
  print(kill(tmp_path, 14, 3, binary, '--rounds=12', *flags))


@pytest.mark.slow
def test_damaged_client_memory_is_refused_or_does_no_harm(tmp_path):
  flags = (*FAST, *LBGM, '--num_clients=200', '--clients_per_round=50', '--client_memory=disk')
  binaries.run('train', *flags, '--rounds=6', f'--output_dir={tmp_path / "run"}')
  binaries.run('train', *flags, '--rounds=9', f'--output_dir={tmp_path / "whole"}')
  copy = tmp_path / 'copy'

  def go_on():
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(tmp_path / 'run', copy)
    command = ['-m', 'experiments.train', *flags, '--rounds=9', f'--output_dir={copy}']
    done = subprocess.run(
      [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode == entry.USAGE:
      return 'refused' if str(copy) in done.stderr.splitlines()[-2] else done.stderr
    if done.returncode:
      return 'aborted'
    is_right = read(copy)[0].equals(read(tmp_path / 'whole')[0])
    return 'right' if is_right else 'silently wrong'

  found = damages.outcomes(tmp_path / 'run/client_memory/data.mdb', 24, 1, go_on)
  print(dict(found))
  assert set(found) == {'right', 'refused'}
