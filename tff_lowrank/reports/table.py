"""The tables of a comparison: of runs, and of methods over seeds. Reads only run folders."""

from collections.abc import Mapping
import pathlib
from typing import Any

import pandas as pd

from tff_lowrank.reports import curves as curves_lib
from tff_lowrank.reports import statistics
from tff_lowrank.simulation import network as network_lib

COLUMNS = (
  'method',
  'seed',
  'rounds',
  'final_accuracy',
  'final_personal_accuracy',
  'compared_round',
  'compared_accuracy',
  'uplink_bytes',
  'downlink_bytes',
  'total_bytes',
  'saving_percent',
  'byte_ratio',
  'dropped_clients',
  'simulated_seconds',
  'wall_seconds',
)
# Columns averaged over seeds; for each, another column has half the 95 % interval.
MEANS = tuple(c for c in COLUMNS if c not in ('method', 'seed', 'rounds', 'compared_round'))


def judged_by(table: pd.DataFrame) -> str:
  """The column by which methods are compared: the personal accuracy, if all have it."""
  is_personal = table['final_personal_accuracy'].notna().all()
  return 'final_personal_accuracy' if is_personal else 'final_accuracy'


def _is_baseline(record: Mapping[str, Any], label: str) -> bool:
  """Whether this is a run of the baseline, FedAvg, without flags of its own in the label."""
  method = record.get('method', {})
  return bool(method.get('is_baseline')) and label == method.get('name')


def _summarize_run(
  label: str,
  folder: pathlib.Path,
  curve: pd.DataFrame,
  budget: curves_lib.Budget,
  accuracy: str,
) -> dict[str, object]:
  """A row of the table, without the comparison with FedAvg."""
  record = curves_lib.read_record(folder)
  last = curve.iloc[-1]
  up, down = int(last['cumulative_uplink_bytes']), int(last['cumulative_downlink_bytes'])
  compared_round, compared_accuracy = budget.read_off(curve, accuracy)
  return dict(
    method=label,
    is_baseline=_is_baseline(record, label),
    seed=record['flags']['seed'],
    rounds=int(last['round']),
    final_accuracy=curves_lib.last(curve['eval_accuracy']),
    final_personal_accuracy=curves_lib.last(curve['eval_personal_accuracy']),
    compared_round=compared_round,
    compared_accuracy=compared_accuracy,
    uplink_bytes=up,
    downlink_bytes=down,
    total_bytes=up + down,
    dropped_clients=int(curve['dropped_clients'].sum()),
    simulated_seconds=round(last['seconds'], 3),
    wall_seconds=record['wall_seconds'],
  )


def build_table(
  runs: curves_lib.Runs,
  network: network_lib.Network,
  budget: curves_lib.Budget | None = None,
) -> pd.DataFrame:
  """One row per `(label, run folder)`.

  `saving_percent` is the saving in total bytes against FedAvg with the same seed, and `byte_ratio`
  is FedAvg's total bytes divided by the run's; both are empty without such a run.
  `simulated_seconds` is the transfer time of the messages on `network`, without computation.
  `compared_accuracy` is the accuracy at `budget`, by default the rounds of the shortest run; the
  personal accuracy, if all runs have it. `dropped_clients` counts, over all rounds, the clients
  that dropped out or were excluded because their update was not finite or was not sent.
  """
  curves = [curves_lib.read_curve(folder, network) for _, folder in runs]
  budget = budget or curves_lib.cheapest('rounds', curves)
  personal = 'eval_personal_accuracy'
  is_personal = all(curve[personal].notna().any() for curve in curves)
  accuracy = personal if is_personal else 'eval_accuracy'
  table = pd.DataFrame(
    [
      _summarize_run(label, folder, curve, budget, accuracy)
      for (label, folder), curve in zip(runs, curves, strict=True)
    ]
  )
  baseline = table[table['is_baseline']].set_index('seed')['total_bytes']
  reference = table['seed'].map(baseline)
  table['saving_percent'] = (100 * (1 - table['total_bytes'] / reference)).round(2)
  table['byte_ratio'] = (reference / table['total_bytes']).round(3)
  table['compared_round'] = table['compared_round'].astype('Int64')
  return table[list(COLUMNS)]


def build_summary(table: pd.DataFrame) -> pd.DataFrame:
  """One row per method of `build_table`, in the same order.

  Columns: `method`; `seeds`, their number; for each of `MEANS` the mean over seeds, and with the
  suffix `_ci95` half its 95 % interval by Student's t, empty for one seed; and `pareto`, 'yes',
  'no' or 'open': whether it is on the Pareto front of mean total bytes and final accuracy (that of
  `judged_by`), see `statistics.pareto_front`. If a seed has no value, the mean is empty.
  """
  groups = table.groupby('method', sort=False)
  columns = {'seeds': groups['seed'].count()}
  for name in MEANS:
    complete = groups[name].count() == columns['seeds']
    columns[name] = groups[name].mean().where(complete)
    width = statistics.half_width(groups[name].std(), columns['seeds'])
    columns[f'{name}_ci95'] = pd.Series(width, index=complete.index).where(complete)
  judged = judged_by(table)
  by_seed = (
    table.groupby(['method', 'seed'])[judged].mean().unstack().reindex(columns['seeds'].index)
  )
  cost = columns['total_bytes'].where(columns[judged].notna())
  columns['pareto'] = statistics.pareto_front(cost, by_seed)
  return pd.DataFrame(columns).reset_index()


def pareto_rule(metric: curves_lib.Metric) -> str:
  """An explanation of the column of the Pareto front."""
  return (
    f'Pareto front of {metric.name} against bytes: a method is compared with every method that '
    f'needs no more bytes on average, by the 95 % interval of the difference in {metric.name} (by '
    "seed, Student's t; if two methods share fewer than two seeds, of the difference of their "
    'means; for a single seed, the difference itself). "no": another method is at least as good '
    'over the whole interval. "yes": all others are worse over the whole interval. "open": the '
    'seeds do not decide.'
  )


# Column -> heading, format, and divisor.
_SHOWN = {
  'final_accuracy': ('{metric}', '.4f', 1),
  'compared_accuracy': ('{metric} at {budget}', '.4f', 1),
  'final_personal_accuracy': ('personal {metric}', '.4f', 1),
  'uplink_bytes': ('uplink MB', '.3f', 1e6),
  'downlink_bytes': ('downlink MB', '.3f', 1e6),
  'total_bytes': ('total MB', '.3f', 1e6),
  'saving_percent': ('saving', '.1f', 1),
  'byte_ratio': ('ratio', '.1f', 1),
  'dropped_clients': ('dropped', '.1f', 1),
  'simulated_seconds': ('simulated time', '.1f', 1),
  'wall_seconds': ('wall time', '.1f', 1),
}
_UNITS = {
  'saving_percent': ' %',
  'byte_ratio': ' x',
  'simulated_seconds': ' s',
  'wall_seconds': ' s',
}


def shown(
  table: pd.DataFrame,
  budget: curves_lib.Budget | None = None,
  metric: curves_lib.Metric = curves_lib.Metric(),  # noqa: B008 (frozen)
) -> pd.DataFrame:
  """A table or summary as text with short headings; bytes in MB (10^6), `±` the 95 % interval.

  Empty columns are not shown, nor dropped clients if there are none. Accuracies at `budget` are
  shown only if it is given and they differ from the final ones.
  """
  is_hidden = dict(
    compared_accuracy=budget is None or table['compared_accuracy'].equals(table[judged_by(table)]),
    dropped_clients=not table['dropped_clients'].any(),
    wall_seconds='seeds' in table,  # Depends on the machine, not only on the method.
  )
  columns = {name: table[name].astype(str) for name in ('method', 'seed', 'seeds', 'rounds')
             if name in table}  # fmt: skip
  for name, (heading, form, size) in _SHOWN.items():
    if is_hidden.get(name) or table[name].isna().all():
      continue
    widths = table.get(f'{name}_ci95', pd.Series(float('nan'), table.index))
    columns[heading.format(budget=budget, metric=metric.name)] = [
      _cell(value / size, width / size, form) + (_UNITS.get(name, '') if pd.notna(value) else '')
      for value, width in zip(table[name], widths, strict=True)
    ]
  if 'pareto' in table:
    columns['Pareto front'] = table['pareto']
  return pd.DataFrame(columns)


def _cell(value: float, width: float, form: str) -> str:
  if pd.isna(value):
    return ''
  return f'{value:z{form}}' + ('' if pd.isna(width) else f' ± {width:{form}}')


def _escaped(text: str) -> str:
  """`text` escaped for one cell of a Markdown table."""
  return ' '.join(text.split()).replace('\\', '\\\\').replace('|', '\\|')


def to_markdown(
  table: pd.DataFrame,
  budget: curves_lib.Budget | None = None,
  metric: curves_lib.Metric = curves_lib.Metric(),  # noqa: B008 (frozen)
) -> str:
  """The result of `shown` in Markdown; under a summary, an explanation of the Pareto front."""
  text = markdown(shown(table, budget, metric))
  return text + (f'\n{pareto_rule(metric)}\n' if 'pareto' in table else '')


def markdown(texts: pd.DataFrame) -> str:
  """A table of texts in Markdown: the first column left-aligned, the others right-aligned."""
  lines = [f'| {" | ".join(texts)} |', '|---' + '|---:' * (texts.shape[1] - 1) + '|']
  for row in texts.itertuples(index=False):
    lines.append(f'| {" | ".join(map(_escaped, row))} |')
  return '\n'.join(lines) + '\n'
