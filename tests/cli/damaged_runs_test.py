"""Run folders that were damaged after the run: mended, or refused in a sentence with the file.

Never are numbers used that the run did not write.
"""

import csv
import json
import os
import shutil
import subprocess

import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank.cli import entry

FLAGS = ('--task=digits', '--rounds=4', '--num_clients=4', '--clients_per_round=2',
         '--batch_size=64', '--checkpoint_every=2')  # fmt: skip
COMPARE = (*FLAGS, '--methods=fed_avg,apf')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A finished comparison of two methods with two checkpoints each."""
  folder = tmp_path_factory.mktemp('whole')
  binaries.run('compare', *COMPARE, f'--output_dir={folder}')
  return folder


@pytest.fixture
def folder(tmp_path, whole):
  """A copy of it, which can be damaged."""
  return shutil.copytree(whole, tmp_path / 'runs')


def tables(folder):
  """What a comparison found, but for the time that it took."""
  table = pd.read_csv(folder / 'table.csv').drop(columns='wall_seconds')
  return table, pd.read_parquet(folder / 'apf-seed1' / 'ledger.parquet')


def assert_same_tables(a, b):
  for one, other in zip(tables(a), tables(b), strict=True):
    pd.testing.assert_frame_equal(one, other)


def change_cell(path, row, column, change):
  with open(path, newline='') as file:
    rows = list(csv.reader(file))
  place = rows[0].index(column)
  rows[row][place] = change(rows[row][place])
  with open(path, 'w', newline='') as file:
    csv.writer(file, lineterminator='\r\n').writerows(rows)


def last_accuracy(run):
  change_cell(run / 'metrics.csv', -1, 'eval_accuracy', lambda text: '0.99' + text[4:])


def first_bytes(run):
  change_cell(run / 'metrics.csv', 1, 'uplink_bytes', lambda text: '9' + text[1:])


def another_row(run):
  path = run / 'metrics.csv'
  path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def fewer_rows(run):
  path = run / 'metrics.csv'
  path.write_bytes(b''.join(path.read_bytes().splitlines(keepends=True)[:-1]))


def no_rows(run):
  (run / 'metrics.csv').write_bytes(b'')


def another_run_s(name):
  def swap(run):
    shutil.copy(run.parent / 'fed_avg-seed1' / name, run / name)

  swap.__name__ = f'another_run_s_{name}'
  return swap


def other_messages(run):
  """A ledger that a parquet reader takes for whole."""
  path = run / 'ledger.parquet'
  ledger = pd.read_parquet(path)
  ledger['bytes'] *= 2
  ledger.to_parquet(path)


def flipped(name, where):
  def flip(run):
    path = run / name
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)

  flip.__name__ = f'flipped_{name}'
  return flip


def no_ledger(run):
  (run / 'ledger.parquet').unlink()


def a_fifo(name):
  def make(run):
    (run / name).unlink()
    os.mkfifo(run / name)

  make.__name__ = f'a_fifo_{name}'
  return make


def other_seed(run):
  text = (run / 'run.json').read_text()
  (run / 'run.json').write_text(text.replace('"seed": 1', '"seed": 2'))


def longer(run):
  text = (run / 'run.json').read_text()
  (run / 'run.json').write_text(text.replace('"wall_seconds": ', '"wall_seconds": 9'))


def cut_record(run):
  path = run / 'run.json'
  path.write_text(path.read_text()[:-20])


def cut_sums(run):
  path = run / 'SHA256SUMS'
  path.write_text(path.read_text()[:100])


def no_sums(run):
  (run / 'SHA256SUMS').unlink()


# What happens to a run's folder, and whether its checkpoints have what was lost.
DAMAGES = [
  (last_accuracy, True),
  (first_bytes, False),
  (another_row, True),
  (fewer_rows, True),
  (no_rows, False),
  (another_run_s('metrics.csv'), False),
  (another_run_s('ledger.arrows'), True),
  (another_run_s('ledger.parquet'), True),
  (other_messages, True),
  (flipped('ledger.parquet', 0.5), True),
  (flipped('ledger.arrows', 0.9), True),
  (flipped('freezing.npz', 0.5), True),
  (no_ledger, True),
  (a_fifo('metrics.csv'), False),
  (a_fifo('ledger.parquet'), True),
  (a_fifo('run.json'), True),
  (cut_record, True),
  (longer, True),
  (flipped('SHA256SUMS', 0.1), True),
  (cut_sums, True),
  (no_sums, True),
]
IDS = [damage.__name__ for damage, _ in DAMAGES]


@pytest.mark.parametrize('damage, is_mended', DAMAGES, ids=IDS)
def test_compare_mends_or_refuses_damaged_runs(folder, whole, capsys, damage, is_mended):
  damage(folder / 'apf-seed1')
  (folder / 'table.csv').unlink()
  status = binaries.status('compare', *COMPARE, f'--output_dir={folder}')
  said = capsys.readouterr()
  if is_mended:
    assert status == 0, said.err
    assert_same_tables(folder, whole)
  else:
    assert status == entry.USAGE
    assert str(folder / 'apf-seed1') in said.err and not (folder / 'table.csv').exists()


@pytest.mark.parametrize('damage', [*(d for d, _ in DAMAGES), other_seed],
                         ids=[*IDS, 'other_seed'])  # fmt: skip
def test_replay_refuses_damaged_runs(folder, capsys, damage):
  run = folder / 'apf-seed1'
  damage(run)
  assert binaries.status('replay', f'--runs={run}', '--output_dir=unused') == entry.USAGE
  said = capsys.readouterr().err
  assert f'{run}/' in said and len(said.splitlines()) == 2


def test_sha256sum_reads_the_sums(folder):
  subprocess.run(
    ['sha256sum', '--check', '--strict', 'SHA256SUMS'], cwd=folder / 'apf-seed1', check=True
  )
  assert len((folder / 'apf-seed1' / 'SHA256SUMS').read_text().splitlines()) == 5


def test_a_refused_run_stays_refused(folder, capsys):
  """Its record says `failed` then, and no longer what its files were."""
  run = folder / 'apf-seed1'
  first_bytes(run)
  assert binaries.status('compare', *COMPARE, f'--output_dir={folder}') == entry.USAGE
  assert json.loads((run / 'run.json').read_text())['status'] == 'failed'
  assert binaries.status('replay', f'--runs={run}', '--output_dir=unused') == entry.USAGE
  assert f'{run / "metrics.csv"}: expected' in capsys.readouterr().err


def test_runs_without_their_checkpoints_are_still_verified(folder, capsys):
  run = folder / 'apf-seed1'
  shutil.rmtree(run / 'checkpoints')
  assert binaries.status('compare', *COMPARE, f'--output_dir={folder}') == 0
  assert 'there is nothing to do' in capsys.readouterr().out
  last_accuracy(run)
  assert binaries.status('replay', f'--runs={run}', '--output_dir=unused') == entry.USAGE
  assert f'{run / "metrics.csv"}: expected' in capsys.readouterr().err
