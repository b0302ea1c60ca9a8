from tests.reports.run_folders import write_run
from tff_lowrank.reports import summary


def test_a_run_in_a_sentence(tmp_path):
  run = write_run(tmp_path / 'run', 1, 1_000_000, 3_000_000, [0.5, 0.7, None], personal=0.8)
  assert summary.sentence(run) == (
    f'3 rounds: accuracy 0.7000, personal accuracy 0.8000, 12.000 MB uplink, 36.000 MB downlink. '
    f'All files are in {run}; open {run / "report.html"}'
  )


def test_another_metric_has_its_name(tmp_path):
  metric = dict(name='R squared', unit='')
  run = write_run(tmp_path / 'run', 1, 1, 1, [-2.5], metric=metric)
  assert 'rounds: R squared -2.5000, ' in summary.sentence(run)
