"""Plots of run folders. Reads files only."""

from collections.abc import Iterable, Mapping
import io
import pathlib

import matplotlib

matplotlib.use('Agg')

from matplotlib import pyplot as plt
from matplotlib import ticker
import pandas as pd

from tff_lowrank.reports import curves
from tff_lowrank.simulation import file_operations

AXES = {
  'accuracy_vs_uplink': ('uplink_megabytes', 'Cumulative uplink (MB)'),
  'accuracy_vs_bytes': ('megabytes', 'Cumulative traffic, up and down (MB)'),
  'accuracy_vs_round': ('round', 'Round'),
}

# Characters of a legend in half the width of a figure, and the height of its rows in inches.
_HALF_LINE = 42
_LEGEND_ROW = 0.18


def read_metrics(folder: pathlib.Path) -> pd.DataFrame:
  """The metrics of a run folder, with traffic so far in 10^6 bytes.

  `uplink_megabytes`, and `megabytes` in both directions.
  """
  metrics = curves.read_metrics(folder)
  return metrics.assign(
    uplink_megabytes=metrics['cumulative_uplink_bytes'] / 1e6, megabytes=metrics['bytes'] / 1e6
  )


def styles(labels: Iterable[str]) -> dict[str, dict[str, object]]:
  """How to draw each run called METHOD-seedN: a colour a method, named once in the legend."""
  colors = [*plt.get_cmap('tab10').colors, *plt.get_cmap('Dark2').colors]
  drawn, chosen = {}, {}
  for label in labels:
    method = label.rpartition('-seed')[0] or label
    chosen[label] = dict(label='_' if method in drawn else method)
    drawn.setdefault(method, colors[len(drawn) % len(colors)])
    chosen[label]['color'] = drawn[method]
  return chosen


def add_legend(figure: plt.Figure, axes: plt.Axes) -> None:
  """A legend of the lines of `axes`, in room that is added to the figure below its plots."""
  handles, names = axes.get_legend_handles_labels()
  columns = 2 if max(map(len, names), default=0) <= _HALF_LINE else 1
  rows = -(-len(names) // columns)
  figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * rows)
  figure.legend(handles, names, loc='outside lower center', fontsize='small', ncols=columns)


def save(figure: plt.Figure, path: pathlib.Path) -> pathlib.Path:
  """Writes a figure as the PNG file `path`, whose folder is made, and closes it. Returns `path`."""
  content = io.BytesIO()
  figure.savefig(content, dpi=150)
  plt.close(figure)
  path.parent.mkdir(parents=True, exist_ok=True)
  file_operations.replace(path, content.getvalue())
  return path


def plot_accuracy(runs: Mapping[str, pathlib.Path], folder: pathlib.Path) -> list[pathlib.Path]:
  """Draws evaluation accuracy against traffic and rounds, a line for each named run folder.

  Returns the files written to `folder`.
  """
  metrics = {label: read_metrics(run).dropna(subset='eval_accuracy') for label, run in runs.items()}
  written = []
  for name, (column, axis) in AXES.items():
    figure, axes = plt.subplots(figsize=(7, 4.5), layout='constrained')
    for rows, style in zip(metrics.values(), styles(metrics).values(), strict=True):
      axes.plot(rows[column], 100 * rows['eval_accuracy'], marker='.', markersize=3, **style)
    axes.set_xlabel(axis)
    axes.set_ylabel('Test accuracy (%)')
    axes.yaxis.set_major_locator(ticker.MaxNLocator(8))
    axes.grid(alpha=0.3)
    add_legend(figure, axes)
    written.append(save(figure, folder / f'{name}.png'))
  return written
