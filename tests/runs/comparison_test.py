"""Comparisons of run folders written by hand."""

import pandas as pd
import pytest

from tests.reports import run_folders
from tff_lowrank import settings
from tff_lowrank.runs import comparison
from tff_lowrank.simulation import network

FILES = {'table.csv', 'table.parquet', 'table.md', 'summary.csv', 'summary.parquet', 'summary.md',
         'plots', 'report.html'}  # fmt: skip


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Two methods, of which one has two seeds and fewer rounds; folders are called alike."""
  folder = tmp_path_factory.mktemp('runs')
  write = run_folders.write_run
  return [
    ('fed_avg', write(folder / 'a' / 'run', 1, 100, 100, [0.1, 0.5, 0.9])),
    ('other', write(folder / 'b' / 'run', 1, 10, 100, [0.2, 0.4])),
    ('other', write(folder / 'c' / 'run', 2, 10, 100, [0.4, 0.6])),
  ]


def test_writes_tables_plots_and_a_page(tmp_path, runs):
  found = comparison.write(runs, tmp_path)
  assert {path.name for path in tmp_path.iterdir()} == FILES
  assert found.report == tmp_path / 'report.html'
  assert {path.stem for path in found.pictures[:-1]} == {
    'accuracy_vs_uplink', 'accuracy_vs_bytes', 'accuracy_vs_round', 'pareto'
  }  # fmt: skip
  read = pd.read_csv(tmp_path / 'table.csv')
  assert read['method'].tolist() == ['fed_avg', 'other', 'other']
  assert read['total_bytes'].tolist() == found.table['total_bytes'].tolist()
  assert len(pd.read_parquet(tmp_path / 'summary.parquet')) == len(found.summary) == 2


def test_runs_of_different_lengths_are_compared_where_the_shortest_ended(tmp_path, runs):
  found = comparison.write(runs, tmp_path)
  assert str(found.budget) == '2 rounds'
  assert found.table['rounds'].tolist() == [3, 2, 2]
  assert found.table['compared_accuracy'].tolist() == [0.5, 0.4, 0.6]


def test_at_a_budget(tmp_path, runs):
  found = comparison.write(runs, tmp_path, at='bytes', budget=850)
  assert str(found.budget) == '0 MB'
  # 800 bytes a round, and 440.
  assert found.table['compared_round'].tolist() == [1, 1, 1]
  slow = network.Network(downlink_mbps=1e-3, uplink_mbps=1e-3, latency_seconds=0)
  seconds = comparison.write(runs, tmp_path, slow, at='seconds').table['simulated_seconds']
  # 3 x 300 bytes down and as many up, in each of three rounds: the slower of two clients.
  assert seconds[0] == pytest.approx(3 * 600 * 8 / 1e3, rel=0.01)


def test_all_runs_are_shown_whatever_their_folders_are_called(tmp_path, runs):
  comparison.write(runs, tmp_path)
  page = (tmp_path / 'report.html').read_text()
  for name in ('fed_avg-seed1', 'other-seed1', 'other-seed2'):
    assert name in page


def test_several_seeds_have_a_summary(tmp_path, runs):
  found = comparison.write(runs, tmp_path)
  assert found.to_markdown().count('| method |') == 2
  assert comparison.write(runs[:2], tmp_path).to_markdown().count('| method |') == 1


def test_runs_that_are_alike_or_none_are_refused(tmp_path, runs):
  with pytest.raises(settings.SettingError, match='found other-seed1 in .*b/run and in .*b/run'):
    comparison.write([*runs, runs[1]], tmp_path)
  with pytest.raises(settings.SettingError, match='found none'):
    comparison.write([], tmp_path)
  assert not [*tmp_path.iterdir()]
