"""Plots of run folders. Reads only files."""

from collections.abc import Callable, Mapping, Sequence
import io
import pathlib
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import axis as axis_lib
from matplotlib import figure as figure_lib
from matplotlib import ticker
import pandas as pd

from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import statistics
from tff_lowrank.reports import styles
from tff_lowrank.reports import table as table_lib
from tff_lowrank.simulation import file_operations

# File -> the column of a mean curve for the x axis, the axis title, and the size of its unit.
AXES = {
  'vs_uplink': ('uplink_bytes', 'Cumulative uplink (MB)', 1e6),
  'vs_bytes': ('bytes', 'Cumulative uplink + downlink (MB)', 1e6),
  'vs_round': ('rounds', 'Round', 1),
}
INTERVAL = "Lines: means over seeds; shaded: 95 % intervals of the mean (Student's t)"

# Characters in half the width of a legend, and the height of its lines in inches.
_HALF_LINE = 42
_LEGEND_LINE = 0.18
# In points. The first label's line, which is solid, stays visible under dashed lines.
_FIRST_WIDTH, _WIDTH = 2.6, 1.5


def subplots(
  *shape: int, figsize: tuple[float, float], **options: Any
) -> tuple[figure_lib.Figure, Any]:
  """As `pyplot.subplots`, without pyplot, whose state and backend are the program's."""
  figure = figure_lib.Figure(figsize=figsize, layout='constrained')
  return figure, figure.subplots(*shape, **options)


def as_text(text: str) -> str:
  """Escapes `text` for matplotlib, which interprets dollars and a leading _."""
  plain = ' '.join(text.encode(errors='replace').decode().split())
  return (' ' if plain.startswith('_') else '') + plain.replace('$', r'\$')


def line(style: styles.Style) -> dict[str, Any]:
  """Matplotlib's line properties of a style."""
  return dict(
    color=style.color,
    linestyle=(0, style.dash) if style.dash else '-',
    linewidth=_WIDTH if style.dash else _FIRST_WIDTH,
  )


def draw(
  axes: axes_lib.Axes,
  x: pd.Series,
  curve: pd.DataFrame,
  label: str,
  style: styles.Style,
  alpha: float = styles.band_alpha(1),
) -> None:
  """Draws `middle` and the area from `low` to `high` of a curve, with hollow markers."""
  axes.plot(
    x, curve['middle'], marker=style.marker, markevery=style.marked(len(x)), markersize=style.size,
    markeredgewidth=1.5, fillstyle='none', label=as_text(label), **line(style),
  )  # fmt: skip
  axes.fill_between(x, curve['low'], curve['high'], color=style.color, alpha=alpha, lw=0)


def add_legend(figure: figure_lib.Figure, axes: axes_lib.Axes) -> None:
  """Adds a legend of the lines of `axes` below the plots, and makes the figure higher for it."""
  handles, names = axes.get_legend_handles_labels()
  columns = 2 if max(map(len, names), default=0) <= _HALF_LINE else 1
  names = ['\n'.join(styles.wrapped(name, 2 * _HALF_LINE)) for name in names]
  lines = -(-sum(name.count('\n') + 1 for name in names) // columns)
  figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * (lines + 1))
  figure.legend(
    handles, names, loc='outside lower center', fontsize='small', ncols=columns, handlelength=4
  )


def save(figure: figure_lib.Figure, path: pathlib.Path) -> pathlib.Path:
  """Writes a figure to the PNG file `path`, creating its folder, and closes it. Returns `path`."""
  content = io.BytesIO()
  figure.savefig(content, dpi=150)
  path.parent.mkdir(parents=True, exist_ok=True)
  file_operations.replace(path, content.getvalue())
  return path


def by_label(
  runs: curves_lib.Runs, read: Callable[[pathlib.Path], pd.DataFrame | None]
) -> dict[str, list[pd.DataFrame]]:
  """The results of `read` for the runs of each label, without None; lists may be empty."""
  found: dict[str, list[pd.DataFrame]] = {}
  for label, run in runs:
    rows = read(run)
    found.setdefault(label, []).extend([] if rows is None else [rows])
  return found


def draw_means(
  axes: axes_lib.Axes,
  metrics: Mapping[str, Sequence[pd.DataFrame]],
  column: str,
  metric: curves_lib.Metric,
  x: str = 'vs_round',
) -> bool:
  """Draws the mean of `column` over each label's runs; returns whether there are intervals.

  Args:
    axes: The axes to draw on.
    metrics: Label -> metrics of its runs, for all labels of the comparison.
    column: The column to draw; runs without it are not shown.
    metric: The metric in the column.
    x: One of `AXES`.
  """
  spent, title, size = AXES[x]
  chosen, has_interval = styles.of(metrics), False
  for label, runs in metrics.items():
    with_column = [rows for rows in runs if column in rows]
    if not with_column:
      continue
    curve = curves_lib.mean_curve(with_column, column)
    ends = metric.shown(curve[['middle', 'low', 'high']])
    draw(axes, curve[spent] / size, ends, label, chosen[label], styles.band_alpha(len(metrics)))
    has_interval |= bool(ends['low'].notna().any())
  axes.set_xlabel(title)
  if size == 1:
    mark_whole_numbers(axes.xaxis)
  axes.grid(alpha=0.3)
  return has_interval


def mark_whole_numbers(axis: axis_lib.Axis) -> None:
  """Puts the ticks of an axis, such as rounds, only at whole numbers."""
  axis.set_major_locator(ticker.MaxNLocator(10, integer=True))


def plot_accuracy(
  runs: curves_lib.Runs,
  folder: pathlib.Path,
  metric: curves_lib.Metric = curves_lib.Metric(),  # noqa: B008 (frozen)
) -> list[pathlib.Path]:
  """Plots test accuracies against bytes and rounds, the mean over seeds for each label.

  Returns the files written to `folder`: `accuracy_*`, and `personal_accuracy_*` if available.
  """
  metrics = by_label(runs, curves_lib.read_metrics)
  written = []
  for column, kind in {'eval_accuracy': '', 'eval_personal_accuracy': 'personal '}.items():
    if kind and not any(rows[column].notna().any() for group in metrics.values() for rows in group):
      continue
    for name in AXES:
      figure, axes = subplots(figsize=(7, 4.5))
      if draw_means(axes, metrics, column, metric, name):
        axes.set_title(INTERVAL, fontsize='small')
      axes.set_ylabel(as_text(metric.title(f'{kind}test')))
      axes.yaxis.set_major_locator(ticker.MaxNLocator(8))
      add_legend(figure, axes)
      written.append(save(figure, folder / f'{kind.replace(" ", "_")}accuracy_{name}.png'))
  return written


def plot_front(
  summary: pd.DataFrame, path: pathlib.Path, metric: curves_lib.Metric
) -> pathlib.Path:
  """Plots mean final accuracy against mean total bytes, with intervals and the Pareto front."""
  judged = table_lib.judged_by(summary)
  chosen = styles.of(summary['method'])
  megabytes, values = summary['total_bytes'] / 1e6, metric.shown(summary[judged])
  width = metric.shown(summary[f'{judged}_ci95'])
  figure, axes = subplots(figsize=(7, 4.5))
  for i, row in summary.iterrows():
    style = chosen[row['method']]
    point: dict[str, Any] = dict(color=style.color, linestyle='none')
    axes.errorbar(
      megabytes[i], values[i], xerr=row['total_bytes_ci95'] / 1e6, yerr=width[i], elinewidth=1,
      capsize=2, **point,
    )  # fmt: skip
    axes.plot(
      megabytes[i], values[i], marker=style.marker, markersize=8, label=as_text(row['method']),
      fillstyle={'yes': 'full', 'open': 'left', 'no': 'none'}[row['pareto']], **point,
    )  # fmt: skip
  draw_steps(axes, megabytes, values)
  about = 'Filled: on the Pareto front; half filled: the seeds do not decide'
  axes.set_title(about, fontsize='small')
  kind = 'personal ' * (judged != 'final_accuracy')
  axes.set_ylabel(as_text(metric.title(f'final {kind}test')))
  axes.set_xlabel(AXES['vs_bytes'][1])
  axes.grid(alpha=0.3)
  add_legend(figure, axes)
  return save(figure, path)


def draw_steps(axes: axes_lib.Axes, costs: pd.Series, values: pd.Series) -> None:
  """Draws the Pareto front as steps; uses a logarithmic axis if costs differ by a lot."""
  front = statistics.is_on_pareto_front(costs, values)
  order = costs[front].sort_values().index
  axes.step(costs[order], values[order], where='post', color='grey', ls='--', lw=1, zorder=0,
            label='Pareto front of the means')  # fmt: skip
  if costs.max() > 10 * costs.min() > 0:
    axes.set_xscale('log')
