"""A plot of the predicted and measured savings of settings."""

import pathlib

import pandas as pd

from tff_lowrank.reports import curves
from tff_lowrank.reports import plots
from tff_lowrank.reports import styles

_ROW = 0.3  # Inches.


def plot_savings(
  table: pd.DataFrame,
  path: pathlib.Path,
  metric: curves.Metric = curves.Metric(),  # noqa: B008 (frozen)
) -> pathlib.Path:
  """Plots a row for each setting to the PNG file `path`, in its method's colour; returns `path`.

  On the left, the fraction of all bytes that it saves: hollow markers are predicted, filled ones
  measured. On the right, if settings were measured, the measured loss of accuracy against FedAvg.

  Args:
    table: The advice, one row per setting, FedAvg first; `measured_` columns are optional.
    path: The file to write.
    metric: The metric in the accuracy columns.
  """
  rows, is_measured = table[1:].reset_index(drop=True), 'measured_total_saved' in table
  chosen = styles.of(table['method'])
  figure, panels = plots.subplots(
    1, 1 + is_measured, figsize=(7 + 3 * is_measured, 1.5 + _ROW * len(rows)), sharey=True,
    squeeze=False, width_ratios=[2, 1][: 1 + is_measured],
  )  # fmt: skip
  left = panels[0, 0]
  for i, row in rows.iterrows():
    point = dict(color=chosen[row['method']].color, marker=chosen[row['method']].marker)
    left.plot(100 * row['total_saved'], i, fillstyle='none', markersize=9, **point)
    if is_measured:
      saved = 100 * row['measured_total_saved']
      left.plot(saved, i, markersize=5, **point)
      left.plot([100 * row['total_saved'], saved], [i, i], color=point['color'], lw=1)
      lost = table['measured_accuracy'][0] - row['measured_accuracy']
      panels[0, 1].plot(lost, i, markersize=5, **point)
  names = rows['method'] + ' ' + rows['setting'] + rows['suggested'].map({True: ' *', False: ''})
  left.set_yticks(range(len(rows)), map(plots.as_text, names), fontsize='small')
  left.invert_yaxis()
  left.set_xlabel('Bytes saved, uplink and downlink (%)')
  about = 'Hollow: predicted; ' + 'filled: measured; ' * is_measured + '*: suggested'
  left.set_title(about, fontsize='small')
  if is_measured:
    panels[0, 1].set_xlabel(plots.as_text(f'Loss of {metric.name} against FedAvg'))
    panels[0, 1].set_title('Measured in one run; not predicted', fontsize='small')
    panels[0, 1].axvline(0, color='grey', lw=1)
  for axes in panels[0]:
    axes.grid(alpha=0.3)
  return plots.save(figure, path)
