import json

import pytest

from tests.reports.run_folders import write_run
from tff_lowrank import files
from tff_lowrank.reports import run_files


@pytest.fixture
def run(tmp_path):
  return write_run(tmp_path / 'run', 1, 1000, 3000, [0.5, None, 0.7], clients=[[0.5]])


def test_what_a_run_wrote_is_read(run):
  run_files.check(run)
  assert run_files.read_record(run / run_files.RECORD)['status'] == 'completed'
  assert run_files.read_metrics(run)['round'].tolist() == [1, 2, 3]
  assert run_files.read_saved_metrics(run) is None  # There is no checkpoint.
  assert run_files.CLIENTS in (run / run_files.SUMS).read_text()


@pytest.mark.parametrize('name', ['run.json', 'metrics.csv', 'ledger.parquet', run_files.CLIENTS])
def test_changed_files_are_told(run, name):
  path = run / name
  path.write_bytes(path.read_bytes() + b' ')
  with pytest.raises(files.FileError, match='the content that the run wrote'):
    run_files.check(run)


def test_a_complete_run_has_sums(run):
  (run / run_files.SUMS).unlink()
  with pytest.raises(files.FileError, match='the SHA-256 of the files of a finished run'):
    run_files.check(run)


@pytest.mark.parametrize(
  'change',
  [dict(flags=3), dict(wall_seconds=float('nan')), dict(devices=[1]), dict(metric={'name': 'x'})],
)
def test_records_of_other_kinds_are_refused(run, change):
  path = run / run_files.RECORD
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  (run / run_files.SUMS).unlink()
  with pytest.raises(files.FileError, match='expected'):
    run_files.read_record(path)


@pytest.mark.parametrize('old, new', [('\n2,', '\n7,'), ('round', 'number'), ('0.7', 'x')])
def test_metrics_that_are_none_are_refused(run, old, new):
  path = run / run_files.METRICS
  path.write_text(path.read_text().replace(old, new))
  with pytest.raises(files.FileError):
    run_files.read_metrics(run)
