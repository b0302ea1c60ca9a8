"""The figures of exhibits, from results."""

from collections.abc import Callable
import pathlib

import pandas as pd

from experiments.papers import exhibits
from experiments.papers import results
from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import plots
from tff_lowrank.reports import statistics
from tff_lowrank.reports import styles

_ACCURACY = curves_lib.Metric()
_FROZEN = curves_lib.Metric('frozen share')


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


def _curves(exhibit: exhibits.Exhibit, found: results.Results, path: pathlib.Path) -> bool:
  """Accuracy by rounds (left) and by bytes (right)."""
  if found.curves is None:
    return False
  figure, sides = plots.subplots(1, 2, figsize=(10, 4.5), sharey=True)
  by_label = _by_label(exhibit, found.curves)
  for axes, x in zip(sides, ('vs_round', 'vs_bytes'), strict=True):
    if plots.draw_means(axes, by_label, _column(exhibit), _ACCURACY, x):
      axes.set_title(plots.INTERVAL, fontsize='small')
  sides[0].set_ylabel(_ACCURACY.title('test'))
  plots.add_legend(figure, sides[0])
  plots.save(figure, path)
  return True


def _freezing(exhibit: exhibits.Exhibit, found: results.Results, path: pathlib.Path) -> bool:
  """Accuracy (top) and frozen share (bottom) by round."""
  if found.curves is None:
    return False
  figure, (above, below) = plots.subplots(2, 1, figsize=(7, 7), sharex=True)
  by_label = _by_label(exhibit, found.curves)
  if plots.draw_means(above, by_label, _column(exhibit), _ACCURACY):
    above.set_title(plots.INTERVAL, fontsize='small')
  plots.draw_means(below, by_label, 'frozen_fraction', _FROZEN)
  above.set_ylabel(_ACCURACY.title('test'))
  above.set_xlabel('')
  below.set_ylabel(_FROZEN.title())
  plots.add_legend(figure, above)
  plots.save(figure, path)
  return True


def _points(exhibit: exhibits.Exhibit, found: results.Results, path: pathlib.Path) -> bool:
  """Accuracy against total bytes at the end, with 95 % intervals."""
  figure, axes = plots.subplots(figsize=(7, 4.5))
  chosen = styles.of(row.label for row in exhibit.rows)
  for row in exhibit.rows:
    runs = found.table[found.table['method'] == row.method]
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
  plots.save(figure, path)
  return True


_DRAW: dict[str, Callable[[exhibits.Exhibit, results.Results, pathlib.Path], bool]] = dict(
  curves=_curves, freezing=_freezing, points=_points
)


def draw(exhibit: exhibits.Exhibit, found: results.Results, path: pathlib.Path) -> bool:
  """Writes the exhibit's figure to the PNG `path`; returns whether there is one.

  There is none if the exhibit has no figure, or its curves were not recorded.
  """
  return exhibit.figure is not None and _DRAW[exhibit.figure](exhibit, found, path)
