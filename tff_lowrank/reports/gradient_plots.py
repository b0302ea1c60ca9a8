"""Tables and plots of a gradient-space study, as in LBGM's paper. Reads only its folder.

gradient_space.npz has `names` (of the histories), `tensors` (names of the tensors), their `shapes`
(as text) and `sizes` (int64 [tensors]); and for history I `rounds_I` (int64 [e]: the rounds of its
gradients), `gram_I` (float64 [tensors, e, e]) and `sums_I` (float64 [tensors, e]); see
`tff_lowrank.analysis.gradient_space.Space`.
"""

from collections.abc import Iterator
import pathlib
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import cm
from matplotlib import ticker
import numpy as np
import pandas as pd

from tff_lowrank import files
from tff_lowrank.analysis import gradient_space
from tff_lowrank.reports import plots
from tff_lowrank.reports import styles

FILE = 'gradient_space.npz'
COMPONENTS = 'components.csv'
# The name of the history of each round's mean update.
MEAN = 'mean'
MODEL = 'model'
# Without momentum, and with that of the paper's scripts.
MOMENTA = (0.0, 0.9)


def _histories(
  folder: pathlib.Path,
) -> Iterator[tuple[str, np.ndarray, list[gradient_space.Space]]]:
  """(name, rounds, one space per tensor) of each history."""
  path = folder / FILE
  with files.reading(path, 'histories of gradients'), np.load(path) as data:
    sizes = data['sizes'].tolist()
    for i, name in enumerate(data['names'].tolist()):
      grams, sums = data[f'gram_{i}'], data[f'sums_{i}']
      spaces = [gradient_space.Space(*parts) for parts in zip(grams, sums, sizes, strict=True)]
      yield name, data[f'rounds_{i}'], spaces


def _rows(
  space: gradient_space.Space, rounds: np.ndarray, **labels: object
) -> Iterator[dict[str, object]]:
  n95, n99 = (gradient_space.num_components(space, share) for share in gradient_space.SHARES)
  consecutive = [np.nan, *gradient_space.consecutive_overlaps(space)]
  for count, (number, few, many, overlap) in enumerate(
    zip(rounds, n95, n99, consecutive, strict=True), start=1
  ):
    yield dict(labels, round=number, gradients=count, n95=few, n99=many, consecutive=overlap)


def components(folder: pathlib.Path) -> pd.DataFrame:
  """One row per history, momentum, tensor (`'model'` is all tensors together) and round.

  `gradients` is their number so far, `n95` and `n99` the number of their principal components,
  `consecutive` the |cos| of the last two.
  """
  path = folder / FILE
  with files.reading(path, 'histories of gradients'), np.load(path) as data:
    named = [*zip(data['tensors'].tolist(), data['shapes'].tolist(), strict=True)]
  rows: list[dict[str, Any]] = []
  for name, rounds, spaces in _histories(folder):
    tensors = [(MODEL, 'all', gradient_space.merge(spaces))]
    tensors += [(*label, space) for label, space in zip(named, spaces, strict=True)]
    for momentum in MOMENTA:
      for tensor, shape, space in tensors:
        labels = dict(history=name, momentum=momentum, tensor=tensor, shape=shape, size=space.size)
        rows += _rows(gradient_space.with_momentum(space, momentum), rounds, **labels)
  return pd.DataFrame(rows)


def summary(folder: pathlib.Path) -> pd.DataFrame:
  """One row per history and momentum, for all its gradients.

  `n95`, `n99` are for the whole model; `mean_` is their mean over tensors, as in the paper's
  figures, `weighted_` the mean weighted by size; `consecutive` is the mean |cos| of a gradient and
  the previous one.
  """
  table = pd.read_csv(folder / COMPONENTS)
  rows = []
  for (name, momentum), part in table.groupby(['history', 'momentum'], sort=False):
    last = part[part['gradients'] == part['gradients'].max()]
    tensors, model = last[last['tensor'] != MODEL], last[last['tensor'] == MODEL].iloc[0]
    row = dict(history=name, momentum=momentum, gradients=model['gradients'])
    for n in ('n95', 'n99'):
      row[n] = model[n]
      row[f'mean_{n}'] = tensors[n].mean()
      row[f'weighted_{n}'] = np.average(tensors[n], weights=tensors['size'])
    row['consecutive'] = part.loc[part['tensor'] == MODEL, 'consecutive'].mean()
    rows.append(row)
  return pd.DataFrame(rows)


def to_markdown(folder: pathlib.Path) -> str:
  """The summary in Markdown."""
  lines = [
    '| history | momentum | gradients | N95 | N99 | N95, mean of tensors | N99, mean of tensors '
    '| consecutive overlap |',
    '|---' + '|---:' * 7 + '|',
  ]
  for row in summary(folder).itertuples():
    overlap = '' if np.isnan(row.consecutive) else f'{row.consecutive:.3f}'
    lines.append(
      f'| {row.history} | {row.momentum} | {row.gradients} | {row.n95} | {row.n99} '
      f'| {row.mean_n95:.1f} | {row.mean_n99:.1f} | {overlap} |'
    )
  return '\n'.join(lines) + '\n'


def _draw_mean(axes: axes_lib.Axes, table: pd.DataFrame, n: str, color: str) -> None:
  """Draws N by round: mean and standard deviation over tensors; dashed for the whole model."""
  by_round = table[table['tensor'] != MODEL].groupby('round')[n]
  mean, deviation = by_round.mean(), by_round.std(ddof=0)
  model = table[table['tensor'] == MODEL]
  axes.plot(mean.index, mean, color=color, label=f'{n.upper()}, mean of tensors')
  axes.fill_between(mean.index, mean - deviation, mean + deviation, color=color, alpha=0.2)
  axes.plot(model['round'], model[n], color=color, ls='--', label=f'{n.upper()}, whole model')


def _plot_progression(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Plots components of the mean's gradients and test accuracy by round, as the paper's Fig. 1."""
  table, metrics = pd.read_csv(folder / COMPONENTS), pd.read_csv(folder / 'metrics.csv')
  figure, panels = plots.subplots(2, len(MOMENTA), figsize=(10, 7), sharex=True, sharey='row')
  for (above, below), momentum in zip(panels.T, MOMENTA, strict=True):
    part = table[(table['history'] == MEAN) & (table['momentum'] == momentum)]
    for n, color in (('n95', 'tab:blue'), ('n99', 'tab:orange')):
      _draw_mean(above, part, n, color)
    model = part[part['tensor'] == MODEL]
    above.plot(model['round'], model['gradients'], color='grey', ls=':', label='gradients so far')
    above.set_title(f'Analysed with momentum {momentum}')
    below.plot(metrics['round'], 100 * metrics['eval_accuracy'], color='tab:green')
    below.set_xlabel('Round')
    plots.mark_whole_numbers(below.xaxis)
    for axes in (above, below):
      axes.grid(alpha=0.3)
  panels[0, 0].set_ylabel('Principal components')
  panels[1, 0].set_ylabel('Test accuracy (%)')
  panels[0, 0].legend(fontsize='small')
  return plots.save(figure, path)


def _plot_clients(folder: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Plots N95 and N99 of the whole model, and consecutive overlaps, one line per history."""
  table = pd.read_csv(folder / COMPONENTS)
  table = table[(table['tensor'] == MODEL) & (table['momentum'] == 0)]
  titles = dict(n95='N95', n99='N99', consecutive='|cos| with the previous gradient')
  figure, panels = plots.subplots(1, 3, figsize=(13, 4.2))
  for axes, (column, title) in zip(panels, titles.items(), strict=True):
    for name, style in styles.of(
      table['history']
    ).items():  # The mean's history first: its line is solid.
      part = table[table['history'] == name]
      axes.plot(
        part['gradients'], part[column], label=plots.as_text(name), marker=style.marker,
        markevery=style.marked(len(part)), fillstyle='none', **plots.line(style),
      )  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel('Gradients so far')
    plots.mark_whole_numbers(axes.xaxis)
    if column != 'consecutive':
      axes.yaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
  plots.add_legend(figure, panels[0])
  return plots.save(figure, path)


def _heat(axes: axes_lib.Axes, values: np.ndarray, x: str, y: str) -> cm.ScalarMappable:
  height, width = values.shape
  image = axes.imshow(
    values, vmin=0, vmax=1, aspect='auto', origin='lower',
    extent=(0.5, width + 0.5, 0.5, height + 0.5),
  )  # fmt: skip
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_locator(ticker.MaxNLocator(8, integer=True))
  axes.set_xlabel(x)
  axes.set_ylabel(y)
  return image


def _plot_overlaps(name: str, space: gradient_space.Space, path: pathlib.Path) -> pathlib.Path:
  """Plots |cos| of gradients with principal directions (Fig. 2) and each other (Fig. 3)."""
  figure, panels = plots.subplots(len(MOMENTA), 2, figsize=(10, 8.5))
  for (left, right), momentum in zip(panels, MOMENTA, strict=True):
    moved = gradient_space.with_momentum(space, momentum)
    directions = gradient_space.principal_overlaps(moved, gradient_space.SHARES[-1])
    _heat(left, directions.T, 'Gradient', 'Principal component (99 %)')
    image = _heat(right, gradient_space.self_overlaps(moved), 'Gradient', 'Gradient')
    left.set_title(f'{name}, momentum {momentum}')
  figure.colorbar(image, ax=panels, label='|cos|', shrink=0.6)
  return plots.save(figure, path)


def plot(folder: pathlib.Path, target: pathlib.Path) -> list[pathlib.Path]:
  """Writes all plots of a study to `target`, overlaps for the mean and the first client.

  Returns the files.
  """
  drawn = [_plot_progression(folder, target / 'components.png')]
  histories = list(_histories(folder))
  if len(histories) > 1:
    drawn.append(_plot_clients(folder, target / 'clients.png'))
  for (name, _, spaces), file in zip(histories[:2], ('overlaps', 'overlaps_client'), strict=False):
    path = target / f'{file}.png'
    drawn.append(_plot_overlaps(f'Whole model, {name}', gradient_space.merge(spaces), path))
  return drawn
