"""What a run had spent after each round, and how good its model was. Reads run folders only."""

from collections.abc import Iterable, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tff_lowrank import files
from tff_lowrank.reports import run_files
from tff_lowrank.reports import statistics
from tff_lowrank.simulation import network as network_lib

# What a run spends, with its unit and how many of the curve's make one of these.
SPENT = {'rounds': ('rounds', 1), 'bytes': ('MB', 1e6), 'seconds': ('s', 1)}

# What is read of a ledger.
_LEDGER = pa.schema(dict(round=pa.int64(), client=pa.string(), direction=pa.string(),
                         bytes=pa.int64()))  # fmt: skip

# What columns of bits were called in ledgers of earlier versions -> what they are called.
_NEW_NAMES = {
  kind: f'{kind}_bits' for kind in ('payload', 'index_or_mask', 'flag', 'scalar', 'catch_up')
}
# What is read of the metrics of clients.
_CLIENTS = pa.schema(dict(round=pa.int64(), client=pa.string(), loss=pa.float64(),
                          accuracy=pa.float64(), examples=pa.int64()))  # fmt: skip

Runs = Sequence[tuple[str, pathlib.Path]]
"""Runs to compare: label of the method and run folder; a method has as many as seeds."""


class Metric(NamedTuple):
  """What the columns called `accuracy` hold.

  name: `'accuracy'` for most tasks, or such as `'recall at 5'`.
  unit: `'fraction'`, shown in percent, or another, shown as it is; empty for none.
  """

  name: str = 'accuracy'
  unit: str = 'fraction'

  def shown(self, values: Any) -> Any:
    """Series or frames of values as they are shown; what is beyond a fraction is cut off."""
    return 100 * values.clip(0, 1) if self.unit == 'fraction' else values

  @property
  def sign(self) -> str:
    """What to write after a number that is shown."""
    return ' %' if self.unit == 'fraction' else f' {self.unit}'.rstrip()

  def title(self, before: str = '') -> str:
    """What to write on an axis, such as `'Test accuracy (%)'`."""
    unit = f' ({self.sign.strip()})' if self.sign else ''
    text = f'{before} {self.name}{unit}'.strip()
    return text[:1].upper() + text[1:]


def read_record(run: pathlib.Path) -> dict[str, Any]:
  """What run.json says, with the flags' `method` and `seed`; FileNotFoundError without one."""
  path = run / run_files.RECORD
  if not path.exists():
    raise FileNotFoundError(f'Expected the folder of a run, with run.json; {run} is none.')
  record = run_files.read_record(path)
  for name, kind in dict(method=str, seed=int).items():
    if not isinstance(record['flags'].get(name), kind):
      raise files.FileError(path, f'a --{name} among its flags', repr(record['flags'].get(name)))
  return record


def named(runs: Iterable[tuple[str, pathlib.Path]]) -> dict[str, pathlib.Path]:
  """Labelled run folders by the name of the run, LABEL-seedN.

  Raises ValueError if two are called alike, or there are none.
  """
  found: dict[str, pathlib.Path] = {}
  for label, run in runs:
    name = f'{label}-seed{read_record(run)["flags"]["seed"]}'
    if name in found:
      raise ValueError(
        f'Runs that are compared must differ in label or seed, found {name} in {found[name]} and '
        f'in {run}.'
      )
    found[name] = run
  if not found:
    raise ValueError('Expected runs to compare, found none.')
  return found


def metric(runs: Iterable[pathlib.Path]) -> Metric:
  """What runs call accuracy, by default that; all names, without a unit, if they differ."""
  found = dict.fromkeys(
    Metric(**read_record(run).get('metric', {'name': 'accuracy', 'unit': 'fraction'}))
    for run in runs
  )
  if len(found) < 2:
    return next(iter(found), Metric())
  names, units = (list(dict.fromkeys(parts)) for parts in zip(*found, strict=True))
  return Metric(' or '.join(names), units[0] if len(units) == 1 else '')


def read_metrics(run: pathlib.Path) -> pd.DataFrame:
  """The run's metrics.csv with what all rounds so far spent: `rounds` and `bytes`, both ways."""
  metrics = run_files.read_metrics(run)
  return metrics.assign(
    rounds=metrics['round'],
    bytes=metrics['cumulative_uplink_bytes'] + metrics['cumulative_downlink_bytes'],
  )


def _read_parquet(path: pathlib.Path, expected: str, schema: pa.Schema | None = None) -> pa.Table:
  """The columns of `schema`, in its types, or all; raises FileError if they are not there."""
  # By pyarrow's data sets, as pandas reads, a short process can be aborted when it ends.
  with files.reading(path, expected), open(path, 'rb') as opened, pq.ParquetFile(opened) as file:
    if schema is None:
      return file.read(use_threads=False)
    return file.read(schema.names, use_threads=False).cast(schema)


def read_ledger(run: pathlib.Path) -> pd.DataFrame:
  """`round`, `client`, `direction` and `bytes` of all messages of a run."""
  table = _read_parquet(run / run_files.LEDGER, 'a ledger', _LEDGER)
  return table.to_pandas(use_threads=False)


def read_whole_ledger(run: pathlib.Path) -> pd.DataFrame:
  """All columns of all messages of a run: see `ledger.Ledger`."""
  table = _read_parquet(run / run_files.LEDGER, 'a ledger')
  table = table.rename_columns([_NEW_NAMES.get(name, name) for name in table.column_names])
  return table.to_pandas(use_threads=False)


def read_clients(run: pathlib.Path) -> pd.DataFrame | None:
  """`round`, `client`, `loss`, `accuracy` and `examples` of clients; None if the run has none."""
  path = run / run_files.CLIENTS
  if not path.exists():
    return None
  return _read_parquet(path, 'the metrics of clients', _CLIENTS).to_pandas(use_threads=False)


def spread(clients: pd.DataFrame, column: str) -> pd.DataFrame:
  """Of the clients of each round (`rounds`) the median as `middle`, 10 % `low` and 90 % `high`."""
  by_round = clients.dropna(subset=column).groupby('round')[column]
  ends = dict(low=by_round.quantile(0.1), high=by_round.quantile(0.9))
  return (
    by_round.median().rename('middle').to_frame().assign(**ends).rename_axis('rounds').reset_index()
  )


def mean_curve(curves: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
  """The mean over runs of `column`, by round, where all of them have a value.

  Columns: what was spent, as far as the curves say (`rounds`, `bytes`, `uplink_bytes` so far,
  `seconds`), the mean as `middle`, and the ends of its 95 % interval, `low` and `high`, which are
  NaN of one run.
  """
  rows = pd.concat(curves).dropna(subset=column).groupby('round')
  spent = [name for name in (*SPENT, 'cumulative_uplink_bytes') if name in curves[0]]
  count, mean = rows[column].count(), rows[column].mean()
  half = statistics.half_width(rows[column].std(), count)
  found = rows[spent].mean().assign(middle=mean, low=mean - half, high=mean + half)
  return found.rename(columns={'cumulative_uplink_bytes': 'uplink_bytes'})[count == len(curves)]


def round_seconds(
  entries: pd.DataFrame, network: network_lib.Network, compute_seconds: float = 0.0
) -> pd.Series:
  """The simulated time of each round that had messages, by round.

  Args:
    entries: What `read_ledger` gives.
    network: Carries the messages; the slowest client of a round counts.
    compute_seconds: That each client computes in a round.
  """
  by_client = entries.pivot_table(
    index=['round', 'client'], columns='direction', values='bytes', aggfunc='sum', fill_value=0
  ).reindex(columns=['downlink', 'uplink'], fill_value=0)
  # All clients of all rounds at once: the network's arithmetic is by element.
  seconds: Any = network.client_seconds(by_client['downlink'], by_client['uplink'], compute_seconds)
  return seconds.groupby(level='round').max()


def read_curve(
  run: pathlib.Path, network: network_lib.Network, compute_seconds: float = 0.0
) -> pd.DataFrame:
  """`read_metrics`, and the simulated `seconds` that all rounds so far took.

  Raises FileError if the ledger, which is written when a run ends, lacks messages of the metrics.
  """
  metrics, entries = read_metrics(run), read_ledger(run)
  if entries['bytes'].sum() < metrics['bytes'].iloc[-1]:
    raise files.FileError(
      run / run_files.LEDGER,
      'the messages of all rounds of metrics.csv',
      f'fewer. {run} is still running or was killed: its ledger.parquet lacks rounds of its '
      'metrics.csv. The command that made it goes on with it and completes both',
    )
  seconds = metrics['round'].map(round_seconds(entries, network, compute_seconds)).fillna(0.0)
  return metrics.assign(seconds=seconds.cumsum())


def last(column: pd.Series) -> float:
  """The last cell that is not empty, or NaN."""
  found = column.dropna()
  return found.iloc[-1] if len(found) else float('nan')


@dataclasses.dataclass(frozen=True)
class Budget:
  """What runs are compared at: each by its last evaluation that had not spent more.

  spent: of `SPENT`.
  amount: rounds, bytes or seconds.
  """

  spent: str
  amount: float

  def __str__(self) -> str:
    unit, size = SPENT[self.spent]
    amount = f'{self.amount / size:.2f}'.rstrip('0').rstrip('.')
    return f'{amount} {unit}'

  def read_off(
    self, curve: pd.DataFrame, accuracy: str = 'eval_accuracy'
  ) -> tuple[int | None, float]:
    """Round and `accuracy` of that evaluation; none and NaN if the first came later."""
    evaluated = curve.dropna(subset=accuracy)
    within = evaluated[evaluated[self.spent] <= self.amount]
    if within.empty:
      return None, float('nan')
    return int(within['round'].iloc[-1]), within[accuracy].iloc[-1]


def cheapest(spent: str, curves: Iterable[pd.DataFrame]) -> Budget:
  """The budget that the run which spent least had spent in all."""
  return Budget(spent, min(curve[spent].iloc[-1] for curve in curves))
