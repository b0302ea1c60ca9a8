import matplotlib

matplotlib.use('Agg')

from matplotlib import colors
from matplotlib import image
from matplotlib import pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tests.reports.run_folders import write_run
from tff_lowrank.reports import client_plots
from tff_lowrank.reports import curves
from tff_lowrank.reports import figures
from tff_lowrank.reports import freezing_plots
from tff_lowrank.reports import plots
from tff_lowrank.reports import styles
from tff_lowrank.reports import table
from tff_lowrank.simulation import network


def pixels_of(path, color):
  """How many pixels of a PNG have a colour."""
  seen = image.imread(path)[..., :3]
  return int((abs(seen - np.array(colors.to_rgb(color))).max(-1) < 0.1).sum())


@pytest.mark.parametrize('num_rounds', [1, 2, 40])
@pytest.mark.parametrize('pair', [(0, 1), (0, 3), (1, 2), (1, 9), (4, 12), (8, 9)])
def test_of_curves_that_coincide_both_are_seen(tmp_path, pair, num_rounds):
  chosen = styles.of(map(str, range(13)))
  x = pd.Series(range(num_rounds))
  curve = pd.DataFrame(dict(middle=x**0.5, low=np.nan, high=np.nan))
  figure, axes = plt.subplots()
  for i in pair:
    plots.draw(axes, x, curve, str(i), chosen[str(i)])
  path = plots.save(figure, tmp_path / 'x.png')
  for i in pair:
    assert pixels_of(path, chosen[str(i)].color) > 10


def comparison(tmp_path, **options):
  accuracies = {1: [0.5, 0.7], 2: [0.3, 0.5]}
  return [
    (label, write_run(tmp_path / f'{label}{seed}', seed, size, size, values, **options))
    for seed, values in accuracies.items()
    for label, size in (('b', 1000), ('$a$', 500))
  ]


@pytest.fixture
def drawn(monkeypatch):
  """Keeps the figures that are saved, by the names of their files."""
  kept, save = {}, plots.save

  def keep(figure, path):
    kept[path.stem] = figure
    return save(figure, path)

  monkeypatch.setattr(plots, 'save', keep)
  return kept


def looks(axes):
  """Colour and marker of each line with a marker, by label."""
  return {
    line.get_label(): (line.get_color(), line.get_marker())
    for line in axes.lines
    if line.get_marker() != 'None' and not line.get_label().startswith('_')
  }


def test_a_label_looks_the_same_in_all_pictures(tmp_path, drawn):
  freezing = dict(frozen_fraction=0.5, effective_perturbation=0.4, stability_threshold=0.3)
  settings = dict(apf_check_every=1, apf_stability_threshold=0.3, apf_ema_decay=0.5)
  runs = comparison(tmp_path, personal=0.5, clients=[[0.1, 0.9]] * 2, columns=freezing, **settings)
  metric = curves.Metric()
  summary = table.build_summary(table.build_table(runs, network.Network()))
  plots.plot_accuracy(runs, tmp_path)
  plots.plot_front(summary, tmp_path / 'pareto.png', metric)
  client_plots.plot_clients(runs, tmp_path / 'clients.png')
  freezing_plots.plot_comparison(runs, tmp_path)
  assert len(drawn) == 10
  expected = {'b': ('#0072B2', 'o'), r'\$a\$': ('#D55E00', 's')}
  for figure in drawn.values():
    for axes in figure.axes:
      assert looks(axes) == expected
  # And in the page.
  by_label = plots.by_label(runs, lambda run: curves.read_curve(run, network.Network()))
  for figure in (
    figures.means(by_label, 'eval_accuracy', metric),
    figures.front(summary, metric),
    figures.clients(plots.by_label(runs, curves.read_clients), metric),
  ):
    found = {
      trace.name: ((trace.line.color or trace.marker.color), trace.marker.symbol.split('-')[0])
      for trace in figure.data
      if trace.marker.symbol
    }
    assert found == {'b': ('#0072B2', 'circle'), '$a$': ('#D55E00', 'square')}


def test_means_and_intervals_are_drawn(tmp_path, drawn):
  plots.plot_accuracy(comparison(tmp_path), tmp_path)
  (axes,) = drawn['accuracy_vs_bytes'].axes
  line = axes.lines[0]
  np.testing.assert_allclose(line.get_xdata(), [0.008, 0.016])
  np.testing.assert_allclose(line.get_ydata(), [40, 60])
  # 12.706 times 10, cut off at 0 and 100 %.
  ends = axes.collections[0].get_datalim(axes.transData)
  np.testing.assert_allclose([ends.ymin, ends.ymax], [0, 100])
  assert plots.INTERVAL in axes.get_title()
  assert axes.get_ylabel() == 'Test accuracy (%)'


def test_one_seed_has_no_interval_and_another_metric_its_name(tmp_path, drawn):
  metric = dict(name='R squared', unit='')
  runs = [('a', write_run(tmp_path / 'a', 1, 1, 1, [-2.0, 0.5], metric=metric))]
  plots.plot_accuracy(runs, tmp_path, curves.metric([runs[0][1]]))
  (axes,) = drawn['accuracy_vs_round'].axes
  assert axes.get_title() == '' and axes.get_ylabel() == 'Test R squared'
  assert axes.lines[0].get_ydata().tolist() == [-2, 0.5]


def test_long_names_are_in_the_legend_as_a_whole(tmp_path, drawn):
  label = '_' + 'fed_avg:uplink=error_feedback(top_k(0.01))' * 4
  plots.plot_accuracy([(label, write_run(tmp_path / 'a', 1, 1, 1, [0.5]))], tmp_path)
  (legend,) = drawn['accuracy_vs_round'].legends
  (text,) = legend.get_texts()
  assert text.get_text().replace('\n', '').strip() == label


def test_rounds_are_marked_at_whole_numbers(tmp_path, drawn):
  plots.plot_accuracy(comparison(tmp_path), tmp_path)
  ticks = drawn['accuracy_vs_round'].axes[0].get_xticks()
  assert len(ticks) > 1 and (ticks == np.round(ticks)).all()
