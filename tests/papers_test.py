"""The exhibits of the papers: their tables against numbers by hand, and the committed pages."""

import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest

from experiments.papers import exhibits
from experiments.papers import pages
from experiments.papers import results

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS, PRESETS = (ROOT / 'experiments' / name for name in ('results', 'presets'))
EXHIBITS = [(name, exhibit) for name, listed in pages.PAPERS.items() for exhibit in listed]
OF_RUNS = [(name, exhibit) for name, exhibit in EXHIBITS if isinstance(exhibit, exhibits.Exhibit)]

EXHIBIT = exhibits.Exhibit(
  'figure_1',
  'A figure',
  'demo',
  (
    exhibits.Row('FedAvg', 'fed_avg', {'accuracy, %': '90'}),
    exhibits.Row('LBGM', 'lbgm'),
    exhibits.Row('none', 'apf'),
  ),
  ('accuracy, %', 'uplink saved, %', 'up MB'),
  figure='curves',
)


def write_runs(path):
  rows = [
    ('fed_avg', 1, 2, 0.9, 4_000_000),
    ('fed_avg', 2, 2, 0.8, 5_000_000),
    ('lbgm', 1, 2, 0.7, 1_000_000),
    ('lbgm', 2, 2, 0.9, 1_000_000),
  ]
  columns = ['method', 'seed', 'rounds', 'final_accuracy', 'uplink_bytes']
  table = pd.DataFrame(rows, columns=columns)
  table = table.assign(total_bytes=2 * table['uplink_bytes'], simulated_seconds=3.0)
  table.to_csv(path, index=False)


def test_table_by_hand(tmp_path):
  write_runs(tmp_path / 'demo.csv')
  found = results.read(tmp_path / 'demo.csv', 'fed_avg')
  shown = exhibits.table(EXHIBIT, found.table)
  # Student's t for one degree of freedom is 12.706; two values at a distance of d have a standard
  # error of d / 2.
  half = 12.7062 * 5
  assert shown['accuracy, %'].tolist() == [f'85.0 ± {half:.1f}', f'80.0 ± {2 * half:.1f}', '']
  assert shown['paper: accuracy, %'].tolist() == ['90', '', '']
  assert shown['uplink saved, %'].tolist()[0] == '0.0 ± 0.0'
  assert shown['uplink saved, %'].tolist()[1].startswith('77.5 ± ')  # Of 75 and 80.
  assert shown['up MB'].tolist()[1] == '1.0 ± 0.0'
  assert shown['seeds'].tolist() == ['2', '2', '']
  np.testing.assert_allclose(found.table['round_seconds'], 1.5)


def test_one_seed_has_no_interval(tmp_path):
  write_runs(tmp_path / 'demo.csv')
  table = results.read(tmp_path / 'demo.csv', 'fed_avg').table
  shown = exhibits.table(EXHIBIT, table[table['seed'] == 1])
  assert shown['accuracy, %'].tolist()[:2] == ['90.0', '70.0']


def test_what_is_missing_is_named(tmp_path, monkeypatch):
  write_runs(tmp_path / 'demo.csv')
  monkeypatch.setitem(pages.PAPERS, 'lbgm', [EXHIBIT])
  options = pages.Options(results_dir=tmp_path)
  text = pages.write('lbgm', None, tmp_path / 'page' / 'lbgm.md', options)
  assert 'Not run: `apf`.' in text
  assert '--flagfile=experiments/presets/demo.flags --data_dir=DIR' in text
  assert '.png' not in text  # No curves were recorded.
  with pytest.raises(pages.UnknownExhibitError, match="the exhibits figure_1, found 'figure_2'"):
    pages.write('lbgm', 'figure_2', tmp_path / 'lbgm.md', options)


@pytest.mark.parametrize('name, exhibit', OF_RUNS, ids=lambda x: getattr(x, 'name', x))
def test_exhibits_name_presets_and_measures(name, exhibit):
  for preset in filter(None, (exhibit.preset, exhibit.full)):
    assert (PRESETS / f'{preset}.flags').exists()
  assert set(exhibit.measures) <= set(exhibits.MEASURES)
  assert {heading for row in exhibit.rows for heading in row.published} <= set(exhibit.measures)
  assert len(set(exhibit.methods)) == len(exhibit.methods)
  names = [other.name for other in pages.PAPERS[name]]
  assert names.count(exhibit.name) == 1


def test_which_presets_name_methods():
  paths = {p.stem: f'experiments/presets/{p.name}' for p in PRESETS.glob('*.flags')}
  named = {name for name, path in paths.items() if results.names_methods(path)}
  assert {'cifar10_apf', 'pfedpara_little_data', 'mnist_parity_two_fc'} <= named
  assert not {'mnist', 'mnist_parity'} & named


@pytest.mark.parametrize('name', pages.PAPERS)
def test_committed_pages_are_up_to_date(name, tmp_path):
  text = pages.write(name, None, tmp_path / f'{name}.md', pages.Options())
  folder = RESULTS / 'papers'
  assert (folder / f'{name}.md').read_text() == text, (
    f'Run: python -m experiments.paper --paper={name} --page_dir=experiments/results/papers'
  )
  drawn = {str(path.relative_to(tmp_path)) for path in (tmp_path / name).rglob('*.png')}
  assert {str(path.relative_to(folder)) for path in (folder / name).rglob('*.png')} == drawn
  assert drawn and all(f'({picture})' in text for picture in drawn)


@pytest.mark.slow
def test_runs_what_is_missing(tmp_path, monkeypatch):
  rows = (exhibits.Row('FedAvg', 'fed_avg'), exhibits.Row('APF', 'apf'))
  preset = 'mnist_apf_aggressive'
  exhibit = exhibits.Exhibit('figure_1', '', preset, rows, EXHIBIT.measures, figure='freezing')
  options = pages.Options(tmp_path, pathlib.Path('synthetic'), tmp_path / 'runs')
  monkeypatch.setitem(pages.PAPERS, 'lbgm', [exhibit])
  monkeypatch.chdir(ROOT)
  page = tmp_path / 'page' / 'lbgm.md'
  text = pages.write('lbgm', None, page, options)
  assert 'Not run' not in text and (page.parent / 'lbgm' / 'figure_1.png').exists()
  table = pd.read_csv(tmp_path / f'{preset}.csv')
  curves = pd.read_csv(tmp_path / f'{preset}_curves.csv')
  last = curves.groupby(['method', 'seed']).last()
  for row in table.itertuples():
    own = last.loc[(row.method, row.seed)]
    np.testing.assert_allclose(own['eval_accuracy'], row.final_accuracy, atol=1e-6)
    assert own['cumulative_uplink_bytes'] == row.uplink_bytes
  # The second time nothing runs.
  shutil.rmtree(tmp_path / 'runs')
  assert pages.write('lbgm', None, page, options) == text
  assert not (tmp_path / 'runs').exists()
