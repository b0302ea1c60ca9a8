"""Names of folders in which something means something else to one of the libraries."""

import gzip
import json
import os
import struct

import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank.datasets import mnist
from tff_lowrank.reports import run_files

NAME = 'a b?c#d%20e[1]{x}$y$\nf;g'
FAST = ('--num_clients=2', '--clients_per_round=2', '--batch_size=64', '--rounds=1')


@pytest.fixture
def home(tmp_path, monkeypatch):
  """The user's home, where nothing but a folder of data is."""
  home = tmp_path / 'home'
  data = home / NAME / 'data'
  data.mkdir(parents=True)
  for name in mnist.FILES:
    shape = (12, 28, 28) if 'images' in name else (12,)
    header = bytes([0, 0, 8, len(shape)]) + struct.pack(f'>{len(shape)}I', *shape)
    (data / name).write_bytes(gzip.compress(header + bytes(12 * 784 if len(shape) > 1 else 12)))
  monkeypatch.setenv('HOME', str(home))
  monkeypatch.chdir(tmp_path)
  yield home
  # Libraries may keep hidden files there.
  assert [path.name for path in home.glob('[!.]*')] == [NAME]
  assert [path.name for path in tmp_path.iterdir()] == ['home']


def test_train_and_replay(home, capsys):
  folder = home / NAME / 'run'
  binaries.run(
    'train', '--task=mnist_two_fc', f'--data_dir=~/{NAME}/data', '--method=apf', *FAST,
    '--client_memory=disk', f'--output_dir=~/{NAME}/run',
  )  # fmt: skip
  names = {path.name for path in folder.iterdir()}
  assert {'metrics.csv', 'ledger.parquet', 'report.html', 'checkpoints'} <= names
  assert [*folder.glob('tensorboard/*')] and len([*folder.glob('plots/*.png')]) > 3
  flags = json.loads((folder / 'run.json').read_text())['flags']
  assert flags['data_dir'] == str(home / NAME / 'data')
  run_files.check(folder)
  arguments = (f'--runs=~/{NAME}/run,~/{NAME}', f'--csv=~/{NAME}/times.csv', '--output_dir=unused')
  binaries.run('replay', *arguments)
  assert pd.read_csv(home / NAME / 'times.csv')['run'].tolist() == [str(folder)] * 2


@pytest.mark.parametrize('jobs', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compare(home, jobs):
  folder = home / NAME / 'runs'
  binaries.run('compare', *FAST, '--methods=fed_avg,apf', f'--jobs={jobs}',
               f'--output_dir=~/{NAME}/runs')  # fmt: skip
  assert len(pd.read_csv(folder / 'table.csv')) == 2
  assert (folder / 'report.html').exists()


def test_tune(home):
  folder = home / NAME / 'study'
  for trials in (1, 2):
    binaries.run('tune', *FAST, '--search=client_learning_rate=log:0.01:1', f'--trials={trials}',
                 f'--output_dir=~/{NAME}/study')  # fmt: skip
    assert len(pd.read_csv(folder / 'trials.csv')) == trials
  assert (folder / 'study.sqlite').stat().st_size


@pytest.mark.parametrize('binary, file', [
  pytest.param('advise', 'advice.csv', marks=pytest.mark.slow),
  ('gradient_space', 'components.csv'),
])  # fmt: skip
def test_studies(home, binary, file):
  binaries.run(binary, *FAST, f'--output_dir=~/{NAME}/study')
  assert len(pd.read_csv(home / NAME / 'study' / file))


def test_datasets(home):
  binaries.run('datasets', '--describe', '--task=digits', '--num_clients=3',
               f'--output_dir=~/{NAME}/drawn')  # fmt: skip
  assert (home / NAME / 'drawn' / 'digits.png').stat().st_size


def test_names_that_are_no_utf_8(home):
  name = os.fsdecode(b'\xff\xfe')
  binaries.run('train', '--task=digits', *FAST, f'--output_dir=~/{NAME}/{name}')
  assert (home / NAME / name / 'report.html').exists()
  csv = home / NAME / 'times.csv'
  binaries.run('replay', f'--runs=~/{NAME}/{name}', f'--csv={csv}', '--output_dir=unused')
  assert b'\xff\xfe' in csv.read_bytes()
