"""A plot of the differences between the clients of a run. Reads only run folders."""

import pathlib

import pandas as pd

from tff_lowrank.reports import curves
from tff_lowrank.reports import plots
from tff_lowrank.reports import styles

ABOUT = 'Clients measured in a round: the line is the median, the shaded area is from 10 % to 90 %'


def plot_clients(
  runs: curves.Runs,
  path: pathlib.Path,
  metric: curves.Metric = curves.Metric(),  # noqa: B008 (frozen)
) -> list[pathlib.Path]:
  """Plots the clients' accuracies (top) and losses (bottom) by round, all seeds together.

  Returns `path` in a list, or an empty list if no run measured its clients.
  """
  clients = plots.by_label(runs, curves.read_clients)
  if not any(clients.values()):
    return []
  figure, panels = plots.subplots(2, 1, figsize=(7, 7), sharex=True)
  columns = dict(accuracy=metric, loss=curves.Metric('loss', ''))
  for axes, (column, shown) in zip(panels, columns.items(), strict=True):
    for label, style in styles.of(clients).items():
      if not clients[label]:
        continue
      found = curves.spread(pd.concat(clients[label]), column)
      curve = shown.shown(found[['middle', 'low', 'high']])
      plots.draw(axes, found['rounds'], curve, label, style, styles.band_alpha(len(clients)))
    axes.set_ylabel(plots.as_text(shown.title("clients'")))
    axes.grid(alpha=0.3)
  panels[0].set_title(ABOUT, fontsize='small')
  panels[1].set_xlabel('Round')
  plots.mark_whole_numbers(panels[1].xaxis)
  plots.add_legend(figure, panels[0])
  return [plots.save(figure, path)]
