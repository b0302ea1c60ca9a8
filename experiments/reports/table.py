"""The table of a comparison. Reads run folders only."""

from collections.abc import Sequence
import json
import pathlib

import pandas as pd

from tff_lowrank.simulation import network as network_lib

COLUMNS = (
  'method',
  'seed',
  'rounds',
  'final_accuracy',
  'final_personal_accuracy',
  'uplink_bytes',
  'downlink_bytes',
  'total_bytes',
  'saving_percent',
  'simulated_seconds',
  'wall_seconds',
)
BASELINE = 'fed_avg'


def transfer_seconds(folder: pathlib.Path, network: network_lib.Network) -> float:
  """The time that all rounds' messages take on `network`, the slowest client counting."""
  entries = pd.read_parquet(folder / 'ledger.parquet')
  by_client = entries.pivot_table(
    index=['round', 'client'], columns='direction', values='bytes', aggfunc='sum'
  )
  rounds = by_client.groupby(level='round')
  return sum(
    network.round_seconds(zip(rows['downlink'], rows['uplink'], strict=True)) for _, rows in rounds
  )


def _last(column: pd.Series) -> float:
  """The last cell that is not empty, or NaN."""
  found = column.dropna()
  return found.iloc[-1] if len(found) else float('nan')


def summarize_run(
  label: str, folder: pathlib.Path, network: network_lib.Network
) -> dict[str, object]:
  """A row of the table, but for the saving."""
  metrics = pd.read_csv(folder / 'metrics.csv')
  record = json.loads((folder / 'run.json').read_text())
  last = metrics.iloc[-1]
  up, down = int(last['cumulative_uplink_bytes']), int(last['cumulative_downlink_bytes'])
  return dict(
    method=label,
    seed=record['flags']['seed'],
    rounds=int(last['round']),
    final_accuracy=metrics['eval_accuracy'].dropna().iloc[-1],
    final_personal_accuracy=_last(metrics['eval_personal_accuracy']),
    uplink_bytes=up,
    downlink_bytes=down,
    total_bytes=up + down,
    simulated_seconds=round(transfer_seconds(folder, network), 3),
    wall_seconds=record['wall_seconds'],
  )


def build_table(
  runs: Sequence[tuple[str, pathlib.Path]], network: network_lib.Network
) -> pd.DataFrame:
  """A row for each `(label, run folder)`.

  `saving_percent` is of total bytes against FedAvg's with the same seed, empty without one;
  `simulated_seconds` is the messages' time on `network`, without computation.
  """
  table = pd.DataFrame([summarize_run(label, folder, network) for label, folder in runs])
  baseline = table[table['method'] == BASELINE].set_index('seed')['total_bytes']
  reference = table['seed'].map(baseline)
  table['saving_percent'] = (100 * (1 - table['total_bytes'] / reference)).round(2)
  return table[list(COLUMNS)]


def _cell(text: str) -> str:
  """`text` as the content of one cell."""
  return ' '.join(text.split()).replace('\\', '\\\\').replace('|', '\\|')


def to_markdown(table: pd.DataFrame) -> str:
  """The table in Markdown, bytes in MB (10^6); personal accuracies only if there are any."""
  columns = ['method', 'seed', 'rounds', 'accuracy', 'personal accuracy', 'up MB', 'down MB',
             'total MB', 'saving', 'transfer', 'wall']  # fmt: skip
  is_personal = table['final_personal_accuracy'].notna().any()
  if not is_personal:
    columns.remove('personal accuracy')
  lines = [f'| {" | ".join(columns)} |', '|---' + '|---:' * (len(columns) - 1) + '|']
  for row in table.itertuples():
    saving = '' if pd.isna(row.saving_percent) else f'{row.saving_percent:.1f} %'
    accuracy = f'{row.final_accuracy:.4f}'
    if is_personal:
      personal = row.final_personal_accuracy
      accuracy += ' | ' if pd.isna(personal) else f' | {personal:.4f}'
    lines.append(
      f'| {_cell(row.method)} | {row.seed} | {row.rounds} | {accuracy} '
      f'| {row.uplink_bytes / 1e6:.3f} | {row.downlink_bytes / 1e6:.3f} '
      f'| {row.total_bytes / 1e6:.3f} | {saving} '
      f'| {row.simulated_seconds:.1f} s | {row.wall_seconds:.1f} s |'
    )
  return '\n'.join(lines) + '\n'
