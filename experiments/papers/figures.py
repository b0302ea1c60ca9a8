"""The figures of exhibits, from results."""

import pathlib

from matplotlib import figure as figure_lib
import pandas as pd

from experiments.papers import exhibits
from experiments.papers import results
from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import freezing_plots
from tff_lowrank.reports import plots
from tff_lowrank.reports import statistics
from tff_lowrank.reports import styles

_ACCURACY = curves_lib.Metric()


def _by_label(exhibit: exhibits.Exhibit, curves: pd.DataFrame) -> dict[str, list[pd.DataFrame]]:
  """The curves of each row that has some, one per seed, with the columns of `read_metrics`."""
  curves = curves.assign(
    rounds=curves['round'],
    bytes=curves['cumulative_uplink_bytes'] + curves['cumulative_downlink_bytes'],
  )
  found = {}
  for row in exhibit.rows:
    own = curves[curves['method'] == row.method]
    if len(own):
      found[row.label] = [rows.dropna(axis='columns', how='all') for _, rows in own.groupby('seed')]
  return found


def _column(exhibit: exhibits.Exhibit) -> str:
  return exhibit.accuracy.replace('final', 'eval')


def _curves(exhibit: exhibits.Exhibit, curves: pd.DataFrame) -> figure_lib.Figure:
  """Accuracy by rounds (left) and by bytes (right)."""
  figure, sides = plots.subplots(1, 2, figsize=(10, 4.5), sharey=True)
  by_label = _by_label(exhibit, curves)
  for axes, x in zip(sides, ('vs_round', 'vs_bytes'), strict=True):
    if plots.draw_means(axes, by_label, _column(exhibit), _ACCURACY, x):
      axes.set_title(plots.INTERVAL, fontsize='small')
  sides[0].set_ylabel(_ACCURACY.title('test'))
  plots.add_legend(figure, sides[0])
  return figure


def _freezing(exhibit: exhibits.Exhibit, curves: pd.DataFrame) -> figure_lib.Figure:
  """Accuracy (top) and frozen parameters (bottom) by round."""
  by_label = _by_label(exhibit, curves)
  figure, above, _ = freezing_plots.draw_accuracy_and_frozen(by_label, _column(exhibit), _ACCURACY)
  plots.add_legend(figure, above)
  return figure


def _points(exhibit: exhibits.Exhibit, table: pd.DataFrame) -> figure_lib.Figure:
  """Accuracy against total bytes at the end, with 95 % intervals."""
  figure, axes = plots.subplots(figsize=(7, 4.5))
  chosen = styles.of(row.label for row in exhibit.rows)
  for row in exhibit.rows:
    runs = table[table['method'] == row.method]
    if runs.empty:
      continue
    values, style = 100 * runs[exhibit.accuracy], chosen[row.label]
    half = statistics.half_width(values.std(), len(values)) if len(values) > 1 else None
    axes.errorbar(
      runs['total_bytes'].mean() / 1e6, values.mean(), yerr=half, color=style.color,
      marker=style.marker, linestyle='none', capsize=2, label=plots.as_text(row.label),
    )  # fmt: skip
  axes.set_ylabel(_ACCURACY.title('final test'))
  axes.set_xlabel(plots.AXES['vs_bytes'][1])
  axes.grid(alpha=0.3)
  plots.add_legend(figure, axes)
  return figure


_OF_CURVES = dict(curves=_curves, freezing=_freezing)


def draw(exhibit: exhibits.Exhibit, found: results.Results, path: pathlib.Path) -> bool:
  """Writes the exhibit's figure to the PNG `path`; returns whether there is one.

  There is none if the exhibit has no figure, or its curves were not recorded.
  """
  if exhibit.figure == 'points':
    plots.save(_points(exhibit, found.table), path)
  elif exhibit.figure is None or found.curves is None:
    return False
  else:
    plots.save(_OF_CURVES[exhibit.figure](exhibit, found.curves), path)
  return True
