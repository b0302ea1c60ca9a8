import json
import logging
import subprocess
import sys
import textwrap

import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank.runs import provenance
from tff_lowrank.simulation import manifest

FLAGS = dict(method='fed_avg', seed=1)
TASK = """\
  from tests.runs import small

  def build():
    return small.own_task(name='wards')
"""


def record(folder, **options):
  provenance.RunRecord(folder / 'run.json', FLAGS, ['/device:CPU:0'], **options)
  return json.loads((folder / 'run.json').read_text())


def told(caplog):
  return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_record_from_its_start_to_its_end(tmp_path):
  path = tmp_path / 'run.json'
  book = provenance.RunRecord(path, FLAGS, ['a'], sources=dict(task=dict(sha256='1')), more=3)
  first = json.loads(path.read_text())
  assert first['status'] == 'running' and first['flags'] == FLAGS and first['more'] == 3
  assert first['versions']['tensorflow-federated'] == '0.87.0'
  assert first['sources'] == dict(task=dict(sha256='1')) and 'resumed' not in first
  book.update('completed', best_round=2)
  last = provenance.read_record(path)
  assert (last['status'], last['best_round']) == ('completed', 2)
  assert last['wall_seconds'] >= first['wall_seconds'] and last['started'] == first['started']


def test_a_run_that_goes_on(tmp_path):
  before = record(tmp_path) | dict(wall_seconds=100.0, started='long ago')
  after = record(tmp_path, before=before)
  assert after['started'] == 'long ago' and after['wall_seconds'] >= 100
  assert len(after['resumed']) == 1 and 'changed' not in after
  assert len(record(tmp_path, before=after)['resumed']) == 2


def test_changes_add_up_and_are_told(tmp_path, caplog):
  one = record(tmp_path, sources=dict(task=dict(sha256='1')))
  two = record(tmp_path, before=one, sources=dict(task=dict(sha256='2')))
  assert two['changed'] == ['task sha256 was 1 and is 2']
  assert 'the run is resumed, but task sha256 was 1 and is 2. Its numbers may' in told(caplog)[0]
  caplog.clear()
  three = record(tmp_path, before=two, sources=dict(task=dict(sha256='2')))
  assert three['changed'] == two['changed'] and not told(caplog)
  four = record(tmp_path, before=three | dict(devices=['GPU']))
  assert four['changed'][1:] == ["devices were ['GPU'] and are ['/device:CPU:0']"]


@pytest.fixture
def module(tmp_path, monkeypatch):
  """Writes a module with a task, and forgets it."""
  monkeypatch.syspath_prepend(tmp_path)

  def write(text):
    (tmp_path / 'own_task_of_provenance.py').write_text(textwrap.dedent(text))
    sys.modules.pop('own_task_of_provenance', None)
    return 'own_task_of_provenance:build'

  yield write
  sys.modules.pop('own_task_of_provenance', None)


def test_the_file_of_a_user_s_task_is_recorded_and_a_change_told(tmp_path, module, caplog):
  folder, given = tmp_path / 'run', small.OWN | dict(rounds=1)
  found = runs.train(module(TASK), 'fed_avg', folder, **given)
  source = found.record['sources']['task']
  assert source['file'] == str(tmp_path / 'own_task_of_provenance.py') and not told(caplog)
  runs.train(module(TASK), 'fed_avg', folder, **given | dict(rounds=2))
  assert 'changed' not in found.record and not told(caplog)
  runs.train(module(TASK + '  # Changed.\n'), 'fed_avg', folder, **given | dict(rounds=3))
  after = found.record
  [change] = after['changed']
  sha256 = after['sources']['task']['sha256']
  assert change == f'task sha256 was {source["sha256"]} and is {sha256}'
  assert any(change in text for text in told(caplog))


def test_other_data_in_a_task_that_is_an_object_is_told(tmp_path, caplog):
  given = small.OWN | dict(rounds=1)
  found = runs.train(small.own_task(), 'fed_avg', tmp_path, **given)
  other = small.tasks.from_client_data(
    {f'ward{k}': small.examples(12 + k, k) for k in range(4)}, small.examples(30, 8), small.network
  )
  runs.train(other, 'fed_avg', tmp_path, **given | dict(rounds=2))
  assert found.record['changed'][0].startswith('task sha256 was ')
  assert any('task sha256 was' in text for text in told(caplog))


def git(folder, *arguments):
  name = ['-c', 'user.name=a', '-c', 'user.email=a@b.c', '-c', 'commit.gpgsign=false']
  subprocess.run(['git', *name, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_of_a_checkout(tmp_path, monkeypatch):
  file = tmp_path / 'package' / 'provenance.py'
  file.parent.mkdir()
  file.touch()
  monkeypatch.setattr(provenance, '__file__', str(file))
  assert record(tmp_path)['git'] == dict(commit=None, dirty=None)
  git(tmp_path, 'init')
  # Installed into somebody's checkout, as into a virtual environment there, and not part of it.
  assert record(tmp_path)['git'] == dict(commit=None, dirty=None)
  git(tmp_path, 'add', 'package')
  git(tmp_path, 'commit', '-m', 'all')
  (tmp_path / 'run.json').unlink()
  runs_folder = tmp_path.parent / f'{tmp_path.name}-runs'
  runs_folder.mkdir()
  found = record(runs_folder)['git']
  assert len(found['commit']) == 40 and found['dirty'] is False
  file.write_text('# Changed.')
  assert record(runs_folder)['git'] == dict(commit=found['commit'], dirty=True)


def test_without_git(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  assert record(tmp_path)['git'] == dict(commit=None, dirty=None)


def test_a_damaged_record_is_taken_as_missing(tmp_path, caplog):
  path = tmp_path / 'run.json'
  assert provenance.read_record(path) is None and not told(caplog)
  path.write_text('{')
  assert provenance.read_record(path) is None
  assert 'It is ignored' in told(caplog)[0]


def test_a_folder_that_is_gone_is_only_warned_of(tmp_path, caplog):
  folder = tmp_path / 'run'
  folder.mkdir()
  book = provenance.RunRecord(folder / 'run.json', FLAGS, [])
  (folder / 'run.json').unlink()
  folder.rmdir()
  book.update_if_possible('failed')
  assert 'could not be written' in told(caplog)[0]


def test_what_is_not_resumed(tmp_path):
  path = tmp_path / 'run.json'
  with pytest.raises(RuntimeError), provenance.recorded(path, FLAGS):
    raise RuntimeError('no')
  assert provenance.read_record(path)['error'] == 'RuntimeError: no'
  with provenance.recorded(path, FLAGS):
    pass
  assert provenance.read_record(path)['status'] == 'completed'
  with pytest.raises(manifest.MismatchError, match='--seed is 1 there and 2 here'):
    with provenance.recorded(path, FLAGS | dict(seed=2)):
      pass
