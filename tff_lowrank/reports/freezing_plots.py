"""Plots of freezing as in APF's paper (Chen et al., ICDCS 2021). Reads only run folders."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any

from matplotlib import axes as axes_lib
from matplotlib import figure as figure_lib
import numpy as np
import pandas as pd

from tff_lowrank import files
from tff_lowrank.freezing import null_noise
from tff_lowrank.reports import curves
from tff_lowrank.reports import plots
from tff_lowrank.reports import run_files
from tff_lowrank.reports import styles

FROZEN = curves.Metric('frozen parameters')
PERTURBATION = curves.Metric('effective perturbation', '')
NULL_LABEL = 'pure noise, first threshold'


def _flags(run: pathlib.Path) -> dict[str, Any]:
  return curves.read_record(run)['flags']


def null_curve(run: pathlib.Path) -> np.ndarray:
  """The frozen fraction after each round of a run if all parameter changes were pure noise.

  For control `aimd` at the run's first threshold, whatever the run's own control.
  """
  flags, num_rounds = _flags(run), len(curves.read_metrics(run))
  every = flags['apf_check_every']
  by_check = null_noise.simulate(
    max(num_rounds // every, 1),
    threshold=flags['apf_stability_threshold'],
    ema_decay=flags['apf_ema_decay'],
    num_parameters=5000,
  )
  checks = np.arange(1, num_rounds + 1) // every
  return np.where(checks > 0, by_check[np.maximum(checks, 1) - 1], 0.0)


def draw_accuracy_and_frozen(
  metrics: Mapping[str, Sequence[pd.DataFrame]], column: str, metric: curves.Metric
) -> tuple[figure_lib.Figure, axes_lib.Axes, axes_lib.Axes]:
  """Draws accuracy (top) and frozen fraction (bottom) by round, without a legend.

  Args:
    metrics: Label -> metrics of its runs, as for `plots.draw_means`.
    column: The column of the accuracy.
    metric: The metric in that column.

  Returns:
    The figure, the axes at the top and those at the bottom.
  """
  figure, (above, below) = plots.subplots(2, 1, figsize=(7, 7), sharex=True)
  if plots.draw_means(above, metrics, column, metric):
    above.set_title(plots.INTERVAL, fontsize='small')
  plots.draw_means(below, metrics, 'frozen_fraction', FROZEN)
  above.set_ylabel(plots.as_text(metric.title('test')))
  above.set_xlabel('')
  below.set_ylabel(FROZEN.title())
  return figure, above, below


def plot_accuracy_and_frozen(
  runs: curves.Runs,
  path: pathlib.Path,
  metric: curves.Metric = curves.Metric(),  # noqa: B008 (frozen)
) -> pathlib.Path:
  """Plots accuracy (top) and frozen fraction (bottom) by round, and the first run's null curve.

  Means over seeds. Runs without freezing, such as FedAvg's, are only in the top plot. Returns
  `path`.
  """
  metrics = plots.by_label(runs, curves.read_metrics)
  figure, above, below = draw_accuracy_and_frozen(metrics, 'eval_accuracy', metric)
  null = null_curve(next(run for _, run in runs if _freezes(run)))
  noise: dict[str, Any] = dict(color='grey', linestyle=':', label=NULL_LABEL)
  below.plot(range(1, len(null) + 1), 100 * null, **noise)
  above.plot([], [], **noise)  # For the legend.
  plots.add_legend(figure, above)
  return plots.save(figure, path)


def _freezes(run: pathlib.Path) -> bool:
  return 'frozen_fraction' in curves.read_metrics(run)


def plot_effective_perturbation(runs: curves.Runs, path: pathlib.Path) -> pathlib.Path:
  """Plots mean effective perturbation and threshold (thin line) by round, as the paper's Fig. 2.

  The mean over seeds; labels without freezing are not shown.
  """
  figure, axes = plots.subplots(figsize=(7, 4))
  metrics = plots.by_label(runs, curves.read_metrics)
  if plots.draw_means(axes, metrics, 'effective_perturbation', PERTURBATION):
    axes.set_title(plots.INTERVAL, fontsize='small')
  for label, style in styles.of(metrics).items():
    freezing = [rows for rows in metrics[label] if 'stability_threshold' in rows]
    if freezing:
      threshold = curves.mean_curve(freezing, 'stability_threshold')
      axes.plot(threshold['rounds'], threshold['middle'], **{**plots.line(style), 'linewidth': 0.8})
  axes.set_ylabel(f'{PERTURBATION.title()} (thin: threshold)')
  axes.set_ylim(bottom=0)
  plots.add_legend(figure, axes)
  return plots.save(figure, path)


@contextlib.contextmanager
def _trace(run: pathlib.Path) -> Iterator[np.lib.npyio.NpzFile]:
  """Reads freezing.npz; raises FileError if it is damaged."""
  path = run / run_files.FREEZING
  with files.reading(path, 'the trace of a freezing run'), np.load(path) as trace:
    yield trace


def stabilisation_table(run: pathlib.Path) -> pd.DataFrame:
  """When the parameters of each tensor first froze, one row per tensor.

  Columns: `tensor`, `shape`, `size`, `frozen` (the fraction that ever froze), and over these
  `mean`, `q05` and `q95` of the round."""
  rows = []
  with _trace(run) as trace:
    for i, name in enumerate(trace['names'].tolist()):
      first = trace[f'first_frozen_{i}']
      seen = first[first >= 0]
      row = dict(tensor=name, shape='x'.join(map(str, trace[f'shape_{i}'])) or '1', size=first.size)
      row['frozen'] = seen.size / first.size if first.size else np.nan
      row['mean'] = seen.mean() if seen.size else np.nan
      row['q05'], row['q95'] = np.quantile(seen, (0.05, 0.95)) if seen.size else (np.nan, np.nan)
      rows.append(row)
  return pd.DataFrame(rows)


def plot_stabilisation(run: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Plots the mean round of first freezing per tensor, with 5th and 95th percentiles (Fig. 3)."""
  table = stabilisation_table(run)
  figure, axes = plots.subplots(figsize=(7, 4.5))
  below, above = table['mean'] - table['q05'], table['q95'] - table['mean']
  # A skewed tensor's mean may lie outside its percentiles.
  errors = [below.clip(lower=0), above.clip(lower=0)]
  axes.errorbar(table.index, table['mean'], yerr=errors, fmt='o', capsize=4)
  labels = map(plots.as_text, table['tensor'] + ', ' + table['shape'])
  axes.set_xticks(table.index, labels, rotation=30, ha='right', fontsize='small')
  axes.set_ylabel('Round of first freezing')
  axes.grid(alpha=0.3)
  return plots.save(figure, path)


def plot_parameters(run: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """Plots two sampled parameters by round, with frozen rounds shaded, as in Figs. 1 and 7.

  These are the sampled parameters that switched most often between frozen and active.
  """
  with _trace(run) as trace:
    values, frozen = trace['sample_value'], trace['sample_frozen']
    places = zip(trace['sample_tensor'], trace['sample_index'], strict=True)
    names = [f'{trace["names"][t]}, scalar {i}' for t, i in places]
  changes = np.count_nonzero(np.diff(frozen, axis=0), axis=0)
  chosen = np.argsort(-changes, kind='stable')[:2]
  rounds = np.arange(1, len(values) + 1)
  figure, panels = plots.subplots(
    len(chosen), 1, figsize=(7, 2.5 * len(chosen)), sharex=True, squeeze=False
  )
  for axes, j in zip(panels[:, 0], chosen, strict=True):
    axes.plot(rounds, values[:, j])
    # A parameter frozen after round r keeps its value in round r + 1.
    edges = np.diff(np.concatenate([[False], frozen[:, j], [False]]).astype(int))
    stretches = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    for k, (start, end) in enumerate(stretches):
      axes.axvspan(start + 1, end + 1, alpha=0.25, label='' if k else 'frozen')
    axes.set_xlim(0, len(values) + 1)
    axes.set_ylabel(plots.as_text(names[j]), fontsize='small')
  if changes[chosen[0]]:
    panels[0, 0].legend(fontsize='small')
  panels[-1, 0].set_xlabel('Round')
  plots.mark_whole_numbers(panels[-1, 0].xaxis)
  return plots.save(figure, path)


def plot_run(
  run: pathlib.Path,
  folder: pathlib.Path,
  metric: curves.Metric = curves.Metric(),  # noqa: B008 (frozen)
) -> list[pathlib.Path]:
  """Writes all plots of one run with freezing; returns the files written to `folder`."""
  runs = [(_flags(run)['method'], run)]
  return [
    *plot_comparison(runs, folder, metric),
    plot_stabilisation(run, folder / 'stabilisation.png'),
    plot_parameters(run, folder / 'parameters.png'),
  ]


def plot_comparison(
  runs: curves.Runs,
  folder: pathlib.Path,
  metric: curves.Metric = curves.Metric(),  # noqa: B008 (frozen)
) -> list[pathlib.Path]:
  """Writes plots that compare labelled runs, if any has freezing; returns the files written."""
  if not any(_freezes(run) for _, run in runs):
    return []
  return [
    plot_accuracy_and_frozen(runs, folder / 'frozen_fraction.png', metric),
    plot_effective_perturbation(runs, folder / 'effective_perturbation.png'),
  ]
