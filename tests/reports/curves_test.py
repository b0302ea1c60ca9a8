import json

import numpy as np
import pandas as pd
import pytest

from tests.reports.run_folders import write_run
from tff_lowrank import files
from tff_lowrank.reports import curves
from tff_lowrank.reports import run_files


def test_a_folder_without_a_run_is_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='Expected a run folder'):
    curves.read_record(tmp_path)


def test_what_runs_call_accuracy(tmp_path):
  plain = write_run(tmp_path / 'a', 1, 1, 1, [0.5])
  recall = write_run(
    tmp_path / 'b', 1, 1, 1, [0.5], metric=dict(name='recall at 5', unit='fraction')
  )
  error = write_run(tmp_path / 'c', 1, 1, 1, [0.5], metric=dict(name='R squared', unit=''))
  assert curves.metric([]) == curves.metric([plain, plain]) == curves.Metric()
  assert curves.Metric().title('test') == 'Test accuracy (%)'
  assert curves.metric([recall]).title('final test') == 'Final test recall at 5 (%)'
  assert curves.metric([error]).title() == 'R squared'
  assert curves.metric([plain, recall]) == curves.Metric('accuracy or recall at 5', 'fraction')
  assert curves.metric([plain, error]) == curves.Metric('accuracy or R squared', '')


def test_only_fractions_are_cut_off_and_in_percent():
  values = pd.Series([-0.1, 0.5, 1.2])
  assert curves.Metric().shown(values).tolist() == [0, 50, 100]
  assert curves.Metric('R squared', '').shown(values).tolist() == values.tolist()
  assert curves.Metric('error', 'm').title('test') == 'Test error (m)'


@pytest.mark.parametrize('metric', [3, {}, {'name': 'x'}, {'name': 1, 'unit': ''}])
def test_a_metric_that_is_none_is_told(tmp_path, metric):
  run = write_run(tmp_path / 'a', 1, 1, 1, [0.5])
  record = json.loads((run / 'run.json').read_text()) | dict(metric=metric)
  (run / run_files.SUMS).unlink()
  (run / 'run.json').write_text(json.dumps(record))
  with pytest.raises(files.FileError, match='metric'):
    curves.metric([run])


def test_mean_curves_by_hand():
  a, b = (
    pd.DataFrame(dict(round=[1, 2, 3], rounds=[1, 2, 3], bytes=bytes_, value=values))
    for bytes_, values in (([10, 20, 30], [0.1, np.nan, 0.5]), ([20, 40, 60], [0.3, 0.4, 0.5]))
  )
  found = curves.mean_curve([a, b], 'value')
  assert found['rounds'].tolist() == [1, 3] and found['bytes'].tolist() == [15, 45]
  assert found['middle'].tolist() == pytest.approx([0.2, 0.5])
  # 12.706 standard deviations of 0.1414 by the root of two.
  assert found['high'].tolist() == pytest.approx([0.2 + 1.2706, 0.5], rel=1e-4)
  assert found['low'].tolist() == pytest.approx([0.2 - 1.2706, 0.5], rel=1e-4)
  assert curves.mean_curve([a], 'value')['low'].isna().all()


def test_the_spread_of_clients_by_hand(tmp_path):
  values = [[i / 10 for i in range(11)], [0.5], [np.nan]]
  run = write_run(tmp_path / 'a', 1, 1, 1, [0.5] * 3, clients=values)
  found = curves.spread(curves.read_clients(run), 'accuracy')
  assert found['rounds'].tolist() == [1, 2]
  assert found['middle'].tolist() == [0.5, 0.5]
  assert found['low'].tolist() == pytest.approx([0.1, 0.5])
  assert found['high'].tolist() == pytest.approx([0.9, 0.5])
  assert curves.spread(curves.read_clients(run)[-1:], 'accuracy').empty
  assert curves.read_clients(write_run(tmp_path / 'b', 1, 1, 1, [0.5])) is None


def test_damaged_metrics_of_clients_are_told(tmp_path):
  run = write_run(tmp_path / 'a', 1, 1, 1, [0.5], clients=[[0.5]])
  (run / run_files.CLIENTS).write_bytes(b'PAR1')
  with pytest.raises(files.FileError, match='the metrics of clients'):
    curves.read_clients(run)
  with pytest.raises(files.FileError, match='the content that the run wrote'):
    run_files.check(run)


def test_budgets_are_named():
  assert str(curves.Budget('bytes', 2_500_000)) == '2.5 MB'
  assert str(curves.Budget('rounds', 20)) == '20 rounds'
