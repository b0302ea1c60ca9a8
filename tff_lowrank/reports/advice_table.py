"""The tables of `tff-lowrank advise`, in Markdown."""

import pandas as pd

from tff_lowrank.reports import curves


def _percent(value: float) -> str:
  return '' if pd.isna(value) else f'{100 * value:.1f} %'


def _verdict(is_suggested: bool, is_measured: bool, is_harmful: bool, name: str) -> str:
  if is_suggested:
    return 'suggested' if is_measured else f'suggested; {name} not measured'
  return f'loses too much {name}' if is_harmful else ''


def _about(table: pd.DataFrame, max_loss: float, name: str) -> str:
  """A paragraph on how the accuracies were measured."""
  text = f'The loss of {name} is not predicted. '
  if 'measured_total_saved' not in table:
    return text + 'It was not measured either: use --measure to train with each setting.'
  return text + (
    'It was measured in one run per setting, so it is noisy. Settings whose '
    f"{name} is below FedAvg's by more than {max_loss:g} (--max_accuracy_loss) are not suggested."
  )


def _settings(table: pd.DataFrame, max_loss: float, name: str) -> list[str]:
  is_checked = 'measured_total_saved' in table
  columns = ['method', 'setting', 'uplink saved', 'total saved', 'total saved, last half', 'error']
  if is_checked:
    columns += ['measured uplink saved', 'measured total saved']
  columns += [name, '']
  lines = [f'| {" | ".join(columns)} |', '|---|---' + '|---:' * (len(columns) - 3) + '|---|']
  for row in table.itertuples():
    error = '' if pd.isna(row.error) else f'{row.error:.3f}'
    cells = [row.method, f'`{row.setting}`' if row.setting else '', _percent(row.uplink_saved)]
    cells += [_percent(row.total_saved), _percent(row.late_total_saved), error]
    if is_checked:
      cells += [_percent(row.measured_uplink_saved), _percent(row.measured_total_saved)]
    accuracy = '' if pd.isna(row.measured_accuracy) else f'{row.measured_accuracy:.4f}'
    is_harmful = (
      is_checked and not table['measured_accuracy'][0] - row.measured_accuracy <= max_loss
    )
    cells += [accuracy, _verdict(bool(row.suggested), is_checked, is_harmful, name)]
    lines.append(f'| {" | ".join(cells)} |')
  return lines


def _layers(table: pd.DataFrame) -> list[str]:
  lines = [
    '| tensor | shape | N95 | N99 | consecutive overlap | effective perturbation | rank of 95 % |',
    '|---|---' + '|---:' * 5 + '|',
  ]
  for row in table.itertuples():
    overlap = '' if pd.isna(row.consecutive_overlap) else f'{row.consecutive_overlap:.3f}'
    lines.append(
      f'| {row.tensor} | {row.shape} | {row.n95} | {row.n99} | {overlap} '
      f'| {row.effective_perturbation:.3f} | {row.rank95:.1f} |'
    )
  return lines


def to_markdown(
  table: pd.DataFrame,
  layers: pd.DataFrame,
  max_loss: float,
  metric: curves.Metric = curves.Metric(),  # noqa: B008 (frozen)
) -> str:
  """The settings, a paragraph on accuracies, and the tensors; see `tff_lowrank.cli.advise`.

  N95, N99 and ranks are computed from the mean updates, overlaps from each client's update and its
  previous one.

  Args:
    table: One row per setting, FedAvg first.
    layers: One row per tensor.
    max_loss: How far the accuracy of a setting may be below FedAvg's.
    metric: The metric in the accuracy columns.
  """
  parts = [
    *_settings(table, max_loss, metric.name),
    '',
    _about(table, max_loss, metric.name),
    '',
    *_layers(layers),
  ]
  return '\n'.join(parts) + '\n'
