"""The tables of advice in Markdown."""

import pandas as pd


def _percent(value: float) -> str:
  return '' if pd.isna(value) else f'{100 * value:.1f} %'


def _settings(table: pd.DataFrame) -> list[str]:
  is_checked = 'measured_total_saved' in table
  columns = ['method', 'setting', 'uplink saved', 'total saved', 'total saved, last half', 'error']
  if is_checked:
    columns += ['measured uplink saved', 'measured total saved']
  columns += ['accuracy', '']
  lines = [f'| {" | ".join(columns)} |', '|---|---' + '|---:' * (len(columns) - 3) + '|---|']
  for row in table.itertuples():
    error = '' if pd.isna(row.error) else f'{row.error:.3f}'
    cells = [row.method, f'`{row.setting}`' if row.setting else '', _percent(row.uplink_saved)]
    cells += [_percent(row.total_saved), _percent(row.late_total_saved), error]
    if is_checked:
      cells += [_percent(row.measured_uplink_saved), _percent(row.measured_total_saved)]
    accuracy = '' if pd.isna(row.measured_accuracy) else f'{row.measured_accuracy:.4f}'
    cells += [accuracy, 'suggested' if row.suggested else '']
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


def to_markdown(table: pd.DataFrame, layers: pd.DataFrame) -> str:
  """The settings, then the tensors; see `experiments.advise`.

  N95, N99 and ranks are of the mean updates, overlaps of each client's updates with the one before.
  """
  return '\n'.join([*_settings(table), '', *_layers(layers)]) + '\n'
