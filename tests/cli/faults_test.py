"""Disks that are full or cannot be written, and clocks that go back, under real runs."""

import csv
import datetime
import gc
import gzip
import json
import re
import shutil
import struct
import subprocess
import time

import pandas as pd
import psutil
import pytest
import tensorflow as tf

from tests.cli import advise_test
from tests.cli import binaries
from tff_lowrank.cli import advise
from tff_lowrank.cli import entry
from tff_lowrank.cli import gradient_space
from tff_lowrank.cli import tune
from tff_lowrank.datasets import mnist
from tff_lowrank.reports import partition_plots
from tff_lowrank.reports import plots
from tff_lowrank.reports import report
from tff_lowrank.reports import table
from tff_lowrank.runs import freezing_trace
from tff_lowrank.runs import provenance
from tff_lowrank.runs import recorder
from tff_lowrank.simulation import file_operations

FAST = ('--task=digits', '--num_clients=4', '--clients_per_round=2', '--batch_size=64',
        '--checkpoint_every=2', '--method=lbgm', '--lbgm_threshold=0.4')  # fmt: skip


def numbers(folder):
  metrics = pd.read_csv(folder / 'metrics.csv').drop(columns='round_seconds')
  return metrics, pd.read_parquet(folder / 'ledger.parquet')


def assert_same(a, b):
  for one, other in zip(numbers(a), numbers(b), strict=True):
    pd.testing.assert_frame_equal(one, other)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of 9 rounds that nothing happened to."""
  folder = tmp_path_factory.mktemp('whole')
  binaries.run('train', *FAST, '--rounds=9', f'--output_dir={folder}')
  return folder


def assert_nothing_is_corrupt(folder):
  """All that is there under its name is whole; returns the number of rounds there are rows of."""
  if (folder / 'run.json').exists():
    assert json.loads((folder / 'run.json').read_text())['status'] in ('failed', 'running')
  if (folder / 'ledger.parquet').exists():
    pd.read_parquet(folder / 'ledger.parquet')
  for path in (folder / 'checkpoints').glob('round_*'):
    content = json.loads((path / 'checkpoint.json').read_text())['content']
    for name, digest in content['files'].items():
      assert file_operations.digest(path / name) == digest
  if not (folder / 'metrics.csv').exists():
    return 0
  rows = list(csv.reader((folder / 'metrics.csv').read_text().splitlines()))[1:]
  assert len({len(row) for row in rows}) <= 1
  assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
  return len(rows)


def fill(disk, free):
  """Leaves `free` KB of a disk, by a file called `ballast`."""
  (disk / 'ballast').unlink(missing_ok=True)
  (disk / 'ballast').write_bytes(bytes(shutil.disk_usage(disk).free - (free << 10)))


def run_on_full_disks(disk, whole, capsys, memory, frees):
  """Runs with `frees` KB left, one after the other, then with room; the rounds done each time."""
  folder, rounds = disk / 'run', []
  arguments = (*FAST, '--rounds=9', f'--client_memory={memory}', f'--output_dir={folder}')
  for free in frees:
    fill(disk, free)
    capsys.readouterr()
    assert binaries.status('train', *arguments) == entry.USAGE
    said = capsys.readouterr().err
    assert re.search('No space left|has room|larger disk', said) and 'Traceback' not in said
    rounds.append(assert_nothing_is_corrupt(folder))
  (disk / 'ballast').unlink()
  assert binaries.status('train', *arguments) == 0
  assert_same(whole, folder)
  assert not [*folder.rglob('*.new')]
  return rounds


def test_a_full_disk_ends_the_run_and_room_mends_it(mount, whole, capsys):
  (done,) = run_on_full_disks(mount('size=8m'), whole, capsys, 'disk', [400])
  assert 0 < done < 9


@pytest.mark.slow
@pytest.mark.parametrize('memory', ['ram', 'disk'])
def test_disks_that_are_full_at_any_moment(mount, whole, capsys, memory):
  frees = [0, 4, 8, 12, 16, 24, 32, 48, 64, *[80] * 12]
  done = run_on_full_disks(mount('size=8m'), whole, capsys, memory, frees)
  print(done)
  assert done == sorted(done) and len(set(done)) > 3


# A binary, what it calls when the disk is full, its flags, and the file that cannot be written.
REPORTS = [
  ('train', recorder.Recorder, '_write_parquet', (), 'ledger.parquet'),
  ('train', freezing_trace.FreezingTrace, 'write', ('--method=apf',), 'freezing.npz'),
  ('train', plots, 'save', (), 'plots'),
  ('train', report, 'write_run', (), 'report.html'),
  ('compare', table, 'build_summary', ('--methods=fed_avg',), 'table.csv'),
  ('compare', report, 'write_comparison', ('--methods=fed_avg',), 'report.html'),
  (
    'tune',
    tune,
    '_write_tables',
    ('--search=client_epochs=choice:1|2', '--trials=1'),
    'trials.csv',
  ),
  ('tune', tune, '_settle', ('--search=client_epochs=choice:1|2', '--trials=1'), 'study.sqlite'),
  ('advise', advise, '_write', (), 'advice.csv'),
  ('gradient_space', gradient_space._Study, 'write', (), 'gradient_space.npz'),
  ('datasets', partition_plots, 'plot_partition', ('--describe',), 'digits.png'),
]


@pytest.mark.parametrize('binary, place, name, flags, file', REPORTS)
def test_a_disk_that_is_full_for_a_report_is_told_with_the_file(
  mount, monkeypatch, capsys, binary, place, name, flags, file
):
  disk = mount('size=32m')  # A report is 5 MB.
  (disk / 'ballast').touch()
  called = getattr(place, name)

  def filling(*arguments, **options):
    fill(disk, 0)
    return called(*arguments, **options)

  if binary == 'advise':
    advise_test.few(monkeypatch)
  arguments = ('--task=digits', '--num_clients=2', '--clients_per_round=2', '--batch_size=64',
               '--rounds=1', *flags, f'--output_dir={disk / "run"}')  # fmt: skip
  with monkeypatch.context() as patch:
    patch.setattr(place, name, filling)
    assert binaries.status(binary, *arguments) == entry.USAGE
  sentence, hint = capsys.readouterr().err.splitlines()[-2:]
  assert str(disk / 'run' / file) in sentence
  assert 'No space left on device' in sentence or 'database or disk is full' in sentence
  assert hint == 'Pass --debug for the traceback.'
  (disk / 'ballast').unlink()
  assert binaries.status(binary, *arguments) == 0


def test_a_folder_that_cannot_be_written_is_refused_at_once(mount, tmp_path, capsys):
  read_only = mount('size=1m,ro')
  for folder, why in (
    (read_only, 'cannot be written to: Read-only file system'),
    (read_only / 'run', 'cannot be created: Read-only file system'),
  ):
    assert binaries.status('train', *FAST, f'--output_dir={folder}') == entry.USAGE
    said = capsys.readouterr().err
    assert f'{folder} {why}' in said and said.count('\n') == 2


def test_data_is_only_read(mount, tmp_path):
  disk = mount('size=1m')
  for name in mnist.FILES:
    shape = (12, 28, 28) if 'images' in name else (12,)
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f'>{len(shape)}I', *shape)
    (disk / name).write_bytes(gzip.compress(header + bytes(12 * 784 if len(shape) > 1 else 12)))
  subprocess.run(['mount', '-o', 'remount,ro', str(disk)], check=True)
  with pytest.raises(OSError, match='Read-only'):
    (disk / 'new').touch()
  binaries.run(
    'train', '--task=mnist_two_fc', '--num_clients=2', '--clients_per_round=1', '--rounds=1',
    f'--data_dir={disk}', f'--output_dir={tmp_path / "run"}',
  )  # fmt: skip
  assert len(numbers(tmp_path / 'run')[0]) == 1


def test_clocks_that_are_set_back_change_nothing(tmp_path, monkeypatch, whole):
  now = time.time()

  def going_back():
    nonlocal now
    now -= 3600
    return now

  monkeypatch.setattr(time, 'time', going_back)
  monkeypatch.setattr(
    provenance, '_now', lambda: datetime.datetime.fromtimestamp(going_back()).isoformat()
  )
  for rounds in (4, 9):
    binaries.run('train', *FAST, f'--rounds={rounds}', f'--output_dir={tmp_path}')
  assert_same(whole, tmp_path)
  record = json.loads((tmp_path / 'run.json').read_text())
  assert record['resumed'][0] < record['started']  # The clock was indeed set back.
  assert record['wall_seconds'] > 0
  assert (pd.read_csv(tmp_path / 'metrics.csv')['round_seconds'] >= 0).all()


@pytest.mark.slow
def test_two_thousand_rounds_of_a_run_leave_nothing_behind(tmp_path, monkeypatch):
  """No growth in memory, threads, file handles or functions, with all that a run writes."""
  own, seen = psutil.Process(), []
  record = recorder.Recorder.record

  def measuring(self, done, evaluated):
    if done.number % 250 == 0:
      gc.collect()
      functions = sum(
        isinstance(o, tf.types.experimental.GenericFunction) for o in gc.get_objects()
      )
      seen.append((own.num_threads(), own.num_fds(), functions, own.memory_info().rss))
    return record(self, done, evaluated)

  monkeypatch.setattr(recorder.Recorder, 'record', measuring)
  binaries.run(
    'train', *FAST, '--rounds=2000', '--eval_every=10', '--checkpoint_every=10',
    '--client_memory=disk', '--client_memory_cap_mb=1', f'--output_dir={tmp_path}',
  )  # fmt: skip
  print(seen)
  assert len(seen) == 8 and seen[-1][:3] == seen[1][:3]
  # Measured: 36 KB a round. TensorFlow 2.14 itself keeps 16 to 48 bytes of every eager tensor.
  assert seen[-1][3] < seen[1][3] + 1500 * 50e3
