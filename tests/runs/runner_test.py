"""A spec, run into a folder."""

import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank import settings
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import folder_lock

GIVEN = dict(task='digits', **small.FAST)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run') / 'in' / 'a' / 'folder'
  assert runner.train(spec_lib.make('apf', GIVEN), folder, 'a label') is True
  return folder


def test_what_is_in_the_folder(folder):
  assert {path.name for path in folder.iterdir()} == {
    'run.json', 'metrics.csv', 'ledger.arrows', 'ledger.parquet', 'SHA256SUMS', 'tensorboard',
    'plots', 'report.html', 'checkpoints', 'model.keras', 'freezing.npz', folder_lock.FILE,
  }  # fmt: skip
  assert {path.stem for path in (folder / 'plots').iterdir()} >= {
    'accuracy_vs_uplink', 'accuracy_vs_bytes', 'accuracy_vs_round', 'frozen_fraction'
  }  # fmt: skip
  assert 'a label' in (folder / 'report.html').read_text()


def test_what_the_record_says(folder):
  record = runs.Run(folder).record
  assert record['status'] == 'completed' and record['client_memory'] == 'ram'
  assert record['method']['name'] == 'apf' and not record['method']['is_baseline']
  assert record['sources'] == {} and record['devices']
  assert record['flags'] == spec_lib.make('apf', GIVEN).as_dict()


def test_a_complete_run_is_left(folder, capsys):
  before = {path: path.stat().st_mtime_ns for path in folder.rglob('*.*')}
  assert runner.train(spec_lib.make('apf', GIVEN), folder, 'another label') is False
  assert capsys.readouterr().out == (
    f'{folder} is finished, with 2 rounds; there is nothing to do.\n'
  )
  for path, changed in before.items():
    assert path.name == folder_lock.FILE or path.stat().st_mtime_ns == changed, path


def test_a_folder_in_use(folder):
  with folder_lock.FolderLock(folder):
    with pytest.raises(BlockingIOError, match='in use'):
      runner.train(spec_lib.make('apf', GIVEN | dict(rounds=3)), folder, '')


def test_a_folder_that_cannot_be_made(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(OSError, match='output_dir: .*file/run cannot be created'):
    runner.train(spec_lib.make('apf', GIVEN), tmp_path / 'file' / 'run', '')


def test_a_failure_is_recorded_with_its_reason(tmp_path):
  def is_enough(row):
    raise RuntimeError('no')

  with pytest.raises(RuntimeError):
    runner.train(spec_lib.make('fed_avg', GIVEN), tmp_path, '', is_enough=is_enough)
  record = runs.Run(tmp_path).record
  assert (record['status'], record['error']) == ('failed', 'RuntimeError: no')
  assert not (tmp_path / 'SHA256SUMS').exists()


def test_a_task_as_the_settings_have_it():
  task = small.own_task()
  given = dict(num_clients=3, clients_per_round=2, client_test_fraction=0.25)
  found = runner.prepare_task(spec_lib.make('fed_avg', given, task), task)
  assert len(found.train.client_ids) == 3 and set(found.train.client_ids) < set(
    task.train.client_ids
  )
  assert found.client_test is not None and task.client_test is None
  refused = 'The model of custom cannot be converted to low_rank'
  with pytest.raises(settings.SettingError, match=refused):
    runner.prepare_task(spec_lib.make('fed_avg', dict(model_family='low_rank'), task), task)
  many = spec_lib.make('fed_avg', dict(num_clients=5, clients_per_round=2), task)
  with pytest.raises(settings.SettingError, match='5'):
    runner.prepare_task(many, task)


def test_a_task_by_name():
  given = GIVEN | dict(partition='shards:3', model_family='fedpara')
  task = runner.build_task(spec_lib.make('fed_avg', given))
  assert len(task.train.client_ids) == 4
  assert any(hasattr(layer, 'factored_kernels') for layer in task.keras_model_fn().layers)
  with pytest.raises(settings.SettingError, match='no module'):
    runner.build_task(spec_lib.make('fed_avg', dict(task='nowhere.at:all')))
