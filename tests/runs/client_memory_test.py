import json
import shutil
import types

import numpy as np
import pandas as pd
import psutil
import pytest

from tests.cli import binaries
from tff_lowrank import client_state
from tff_lowrank import settings
from tff_lowrank.cli import entry
from tff_lowrank.runs import client_memory

MODEL = np.zeros(1_000_000, np.float32)


def make_spec(kind='auto', rounds=1000, clients_per_round=50):
  return types.SimpleNamespace(
    client_memory=kind, rounds=rounds, clients_per_round=clients_per_round
  )


@pytest.fixture
def memory(monkeypatch):
  """Sets how many bytes of memory are free."""

  def set_available(available):
    monkeypatch.setattr(
      psutil, 'virtual_memory', lambda: types.SimpleNamespace(available=available)
    )

  return set_available


@pytest.mark.parametrize(
  'clients, initial, expected', [(900, MODEL, 'ram'), (1100, MODEL, 'disk'), (10**6, (), 'ram')]
)
def test_what_is_large_goes_to_disk(tmp_path, memory, clients, initial, expected):
  memory(40e9)
  assert client_memory.choose(make_spec(), tmp_path, clients, initial) == expected
  assert client_memory.choose(make_spec('ram'), tmp_path, clients, initial) == 'ram'


def test_population_that_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
  usage = types.SimpleNamespace(free=2_100_000_000_000)
  monkeypatch.setattr('shutil.disk_usage', lambda path: usage)
  model = types.SimpleNamespace(num_bytes=16_000_000)
  monkeypatch.setattr(client_state, 'Packing', lambda initial, float16: model)
  spec = make_spec('disk', rounds=10_000)
  with pytest.raises(settings.SettingError) as refused:
    client_memory.check_fits(spec, tmp_path, 342_477, None, 'disk')
  assert (
    'The state of 342,477 clients, 16 MB each, takes 5.5 TB; the disk of '
    f'{tmp_path} has 2.1 TB free. Use --client_memory=disk_float16 for half of it, '
  ) in str(refused.value)
  # No more than 2,000 x 50 clients can take part.
  client_memory.check_fits(make_spec(rounds=2000), tmp_path, 342_477, None, 'disk')
  with pytest.raises(settings.SettingError):
    client_memory.check_fits(make_spec(clients_per_round=0), tmp_path, 342_477, None, 'disk')


FAST = ('--task=digits', '--num_clients=4', '--clients_per_round=2', '--batch_size=64',
        '--checkpoint_every=2', '--method=lbgm')  # fmt: skip


@pytest.mark.parametrize('first, then, expected', [(1e4, 1e12, 'disk'), (1e12, 1e4, 'ram')])
def test_a_run_keeps_the_choice_of_its_first_start(tmp_path, memory, first, then, expected):
  for rounds, available in ((2, first), (4, then)):
    memory(available)
    binaries.run('train', *FAST, f'--rounds={rounds}', f'--output_dir={tmp_path}')
    record = json.loads((tmp_path / 'run.json').read_text())
    assert (record['client_memory'], record['flags']['client_memory']) == (expected, 'auto')
    assert (tmp_path / 'client_memory').exists() == (expected == 'disk')
  assert record['status'] == 'completed'


def test_a_run_without_room_ends_before_its_first_round(tmp_path, monkeypatch):
  monkeypatch.setattr('shutil.disk_usage', lambda path: types.SimpleNamespace(free=100))
  with pytest.raises(
    settings.SettingError, match=r'The state of 4 clients, .* kB each, takes .* kB;'
  ):
    binaries.run('train', *FAST, '--rounds=2', f'--output_dir={tmp_path}')
  assert not (tmp_path / 'metrics.csv').exists()


DISK = (*FAST, '--client_memory=disk', '--rounds=2')


@pytest.fixture(scope='module')
def another(tmp_path_factory):
  """A finished run with client memory on disk."""
  folder = tmp_path_factory.mktemp('another')
  binaries.run('train', *DISK, f'--output_dir={folder}')
  return folder


@pytest.mark.parametrize(
  'put, found',
  [(shutil.copytree, 'that of another'), (lambda a, b: b.symlink_to(a), 'a symbolic link')],
)
@pytest.mark.parametrize('has_checkpoint', [False, True])
def test_the_memory_of_another_run_is_refused_and_left(
  tmp_path, another, capsys, put, found, has_checkpoint
):
  folder = tmp_path / 'run'
  if has_checkpoint:
    binaries.run('train', *DISK, f'--output_dir={folder}')
    shutil.rmtree(folder / 'client_memory')
  folder.mkdir(exist_ok=True)
  put(another / 'client_memory', folder / 'client_memory')
  before = (another / 'client_memory' / 'data.mdb').read_bytes()
  flags = (*DISK, '--rounds=4', f'--output_dir={folder}')
  for _ in range(2):  # A run that was refused once does not own the memory.
    assert binaries.status('train', *flags) == entry.USAGE
    assert found in capsys.readouterr().err
  assert (another / 'client_memory' / 'data.mdb').read_bytes() == before
  if not has_checkpoint:
    assert (folder / 'client_memory' / 'data.mdb').read_bytes() == before


def test_a_run_without_a_checkpoint_yet_goes_on(tmp_path, another):
  """As one that was killed before its first has it."""
  folder = tmp_path / 'run'
  shutil.copytree(another, folder)
  shutil.rmtree(folder / 'checkpoints')
  (folder / 'SHA256SUMS').unlink()
  record = json.loads((folder / 'run.json').read_text())
  (folder / 'run.json').write_text(json.dumps(record | dict(status='running')))
  binaries.run('train', *DISK, f'--output_dir={folder}')
  rows = [
    pd.read_csv(run / 'metrics.csv').drop(columns='round_seconds') for run in (folder, another)
  ]
  pd.testing.assert_frame_equal(*rows)
