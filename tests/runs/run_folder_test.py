"""What is in a folder before a run begins."""

import logging
import shutil

import pytest

from tests.runs import small
from tff_lowrank import files
from tff_lowrank import runs
from tff_lowrank.runs import run_folder
from tff_lowrank.simulation import manifest

GIVEN = dict(task='digits', **small.FAST)


def make(**given):
  return runs.spec.make('fed_avg', GIVEN | given)


@pytest.fixture
def folder(tmp_path, complete):
  """A copy of a run of two rounds, to damage."""
  shutil.copytree(complete, tmp_path / 'run')
  return tmp_path / 'run'


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run') / 'run'
  runs.train('digits', 'fed_avg', folder, **small.FAST)
  return folder


def test_a_run_is_complete_with_all_of_its_rounds(complete):
  assert run_folder.is_complete(make(), complete)
  assert run_folder.is_complete(make(data_dir=None), complete)
  assert not run_folder.is_complete(make(rounds=3), complete)
  with pytest.raises(manifest.MismatchError, match='--seed is 1 there and 2 here'):
    run_folder.is_complete(make(seed=2), complete)


def test_an_empty_folder(tmp_path):
  assert not run_folder.is_complete(make(), tmp_path)
  assert not run_folder.has_rows(tmp_path)
  run_folder.check_not_undone(tmp_path, make())
  (tmp_path / 'metrics.csv').touch()
  assert not run_folder.has_rows(tmp_path)


def test_what_is_damaged_is_not_complete(folder, caplog):
  with open(folder / 'metrics.csv', 'a') as file:
    file.write('3\n')
  assert not run_folder.is_complete(make(), folder)
  assert any(
    'metrics.csv' in r.getMessage() for r in caplog.records if r.levelno == logging.WARNING
  )


def test_metrics_that_are_no_file(tmp_path):
  (tmp_path / 'metrics.csv').mkdir()
  with pytest.raises(files.FileError, match='the metrics of a run'):
    run_folder.has_rows(tmp_path)


def test_rows_without_a_checkpoint(folder):
  run_folder.check_has_checkpoint(folder, dict(status='completed'))
  shutil.rmtree(folder / 'checkpoints')
  run_folder.check_has_checkpoint(folder, dict(status='running'))
  for before in (dict(status='completed'), None):
    with pytest.raises(manifest.DamagedError, match='no checkpoint to resume from'):
      run_folder.check_has_checkpoint(folder, before)


def test_rounds_are_not_undone(complete):
  run_folder.check_not_undone(complete, make())
  with pytest.raises(manifest.MismatchError, match='has 2 rounds already, more than --rounds=1'):
    run_folder.check_not_undone(complete, make(rounds=1))
