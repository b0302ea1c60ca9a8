"""Costs and accuracies of a run after each round. Reads only run folders."""

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

# Kinds of cost: the unit shown, and its size in the unit of the curves.
SPENT = {'rounds': ('rounds', 1), 'bytes': ('MB', 1e6), 'seconds': ('s', 1)}

# The columns read from a ledger.
_LEDGER = pa.schema(dict(round=pa.int64(), client=pa.string(), direction=pa.string(),
                         bytes=pa.int64()))  # fmt: skip

# Old names of columns of bits, in ledgers of earlier versions -> new names.
_NEW_NAMES = {
  kind: f'{kind}_bits' for kind in ('payload', 'index_or_mask', 'flag', 'scalar', 'catch_up')
}
# The columns read from the metrics of clients.
_CLIENTS = pa.schema(dict(round=pa.int64(), client=pa.string(), loss=pa.float64(),
                          accuracy=pa.float64(), examples=pa.int64()))  # fmt: skip

Runs = Sequence[tuple[str, pathlib.Path]]
"""Runs to compare: pairs of a method's label and a run folder, one per seed."""


class Metric(NamedTuple):
  """The metric in the columns called `accuracy`.

  name: `'accuracy'` for most tasks, or for example `'recall at 5'`.
  unit: `'fraction'`, shown in percent, or another unit, shown as it is; empty for none.
  """

  name: str = 'accuracy'
  unit: str = 'fraction'

  def shown(self, values: Any) -> Any:
    """Series or frames of values as shown; fractions are clipped to [0, 1]."""
    return 100 * values.clip(0, 1) if self.unit == 'fraction' else values

  @property
  def sign(self) -> str:
    """The unit after a shown number."""
    return ' %' if self.unit == 'fraction' else f' {self.unit}'.rstrip()

  def title(self, before: str = '') -> str:
    """The title of an axis, such as `'Test accuracy (%)'`."""
    unit = f' ({self.sign.strip()})' if self.sign else ''
    text = f'{before} {self.name}{unit}'.strip()
    return text[:1].upper() + text[1:]


def read_record(run: pathlib.Path) -> dict[str, Any]:
  """Reads run.json, whose flags must have `method` and `seed`; FileNotFoundError if missing."""
  path = run / run_files.RECORD
  if not path.exists():
    raise FileNotFoundError(f'Expected a run folder, with run.json; {run} has none.')
  record = run_files.read_record(path)
  for name, kind in dict(method=str, seed=int).items():
    if not isinstance(record['flags'].get(name), kind):
      raise files.FileError(path, f'a --{name} among its flags', repr(record['flags'].get(name)))
  return record


def named(runs: Iterable[tuple[str, pathlib.Path]]) -> dict[str, pathlib.Path]:
  """Labelled run folders by the name of the run, LABEL-seedN.

  Raises ValueError if two have the same name, or there are none.
  """
  found: dict[str, pathlib.Path] = {}
  for label, run in runs:
    name = f'{label}-seed{read_record(run)["flags"]["seed"]}'
    if name in found:
      raise ValueError(
        f'Compared runs must differ in label or seed, found {name} in {found[name]} and in {run}.'
      )
    found[name] = run
  if not found:
    raise ValueError('Expected runs to compare, found none.')
  return found


def metric(runs: Iterable[pathlib.Path]) -> Metric:
  """The metric that runs call accuracy; all names, without a unit, if they differ."""
  found = dict.fromkeys(
    Metric(**read_record(run).get('metric', {'name': 'accuracy', 'unit': 'fraction'}))
    for run in runs
  )
  if len(found) < 2:
    return next(iter(found), Metric())
  names, units = (list(dict.fromkeys(parts)) for parts in zip(*found, strict=True))
  return Metric(' or '.join(names), units[0] if len(units) == 1 else '')


def read_metrics(run: pathlib.Path) -> pd.DataFrame:
  """The run's metrics.csv with cumulative costs: `rounds`, and `bytes` of both directions."""
  metrics = run_files.read_metrics(run)
  return metrics.assign(
    rounds=metrics['round'],
    bytes=metrics['cumulative_uplink_bytes'] + metrics['cumulative_downlink_bytes'],
  )


def _read_parquet(path: pathlib.Path, expected: str, schema: pa.Schema | None = None) -> pa.Table:
  """The columns of `schema`, in its types, or all; raises FileError if they are missing."""
  # Not with pyarrow's data sets, as pandas does: a short process could abort when it ends.
  with files.reading(path, expected), open(path, 'rb') as opened, pq.ParquetFile(opened) as file:
    if schema is None:
      return file.read(use_threads=False)
    return file.read(schema.names, use_threads=False).cast(schema)


def read_ledger(run: pathlib.Path) -> pd.DataFrame:
  """`round`, `client`, `direction` and `bytes` of all messages in a run."""
  table = _read_parquet(run / run_files.LEDGER, 'a ledger', _LEDGER)
  return table.to_pandas(use_threads=False)


def read_whole_ledger(run: pathlib.Path) -> pd.DataFrame:
  """All columns of all messages in a run: see `ledger.Ledger`."""
  table = _read_parquet(run / run_files.LEDGER, 'a ledger')
  table = table.rename_columns([_NEW_NAMES.get(name, name) for name in table.column_names])
  return table.to_pandas(use_threads=False)


def read_clients(run: pathlib.Path) -> pd.DataFrame | None:
  """`round`, `client`, `loss`, `accuracy` and `examples` of clients; None if not recorded."""
  path = run / run_files.CLIENTS
  if not path.exists():
    return None
  return _read_parquet(path, 'the metrics of clients', _CLIENTS).to_pandas(use_threads=False)


def spread(clients: pd.DataFrame, column: str) -> pd.DataFrame:
  """Over the clients of each round (`rounds`): median `middle`, 10 % `low` and 90 % `high`."""
  by_round = clients.dropna(subset=column).groupby('round')[column]
  ends = dict(low=by_round.quantile(0.1), high=by_round.quantile(0.9))
  return (
    by_round.median().rename('middle').to_frame().assign(**ends).rename_axis('rounds').reset_index()
  )


def mean_curve(curves: Sequence[pd.DataFrame], column: str) -> pd.DataFrame:
  """The mean over runs of `column`, by round, for rounds in which all of them have a value.

  Columns: cumulative costs, as far as the curves have them (`rounds`, `bytes`, `uplink_bytes`,
  `seconds`), the mean as `middle`, and the ends of its 95 % interval, `low` and `high`, which are
  NaN for a single run.
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
  """The simulated time of each round with messages, by round.

  Args:
    entries: The result of `read_ledger`.
    network: The simulated network; the slowest client decides the time of a round.
    compute_seconds: Computation time of each client in a round.
  """
  by_client = entries.pivot_table(
    index=['round', 'client'], columns='direction', values='bytes', aggfunc='sum', fill_value=0
  ).reindex(columns=['downlink', 'uplink'], fill_value=0)
  # All clients of all rounds at once: the network computes element-wise.
  seconds: Any = network.client_seconds(by_client['downlink'], by_client['uplink'], compute_seconds)
  return seconds.groupby(level='round').max()


def read_curve(
  run: pathlib.Path, network: network_lib.Network, compute_seconds: float = 0.0
) -> pd.DataFrame:
  """`read_metrics`, and the cumulative simulated `seconds`.

  Raises FileError if the ledger, which is written when a run ends, lacks rounds of the metrics.
  """
  metrics, entries = read_metrics(run), read_ledger(run)
  if entries['bytes'].sum() < metrics['bytes'].iloc[-1]:
    raise files.FileError(
      run / run_files.LEDGER,
      'the messages of all rounds of metrics.csv',
      f'fewer. {run} is still running or was killed: its ledger.parquet lacks rounds of its '
      'metrics.csv. The command of the run resumes it and completes both',
    )
  seconds = metrics['round'].map(round_seconds(entries, network, compute_seconds)).fillna(0.0)
  return metrics.assign(seconds=seconds.cumsum())


def last(column: pd.Series) -> float:
  """The last cell that is not empty, or NaN."""
  found = column.dropna()
  return found.iloc[-1] if len(found) else float('nan')


@dataclasses.dataclass(frozen=True)
class Budget:
  """The budget at which runs are compared: each by its last evaluation within the budget.

  spent: the kind of cost, a key of `SPENT`.
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
    """Round and `accuracy` of that evaluation; None and NaN if the first was over budget."""
    evaluated = curve.dropna(subset=accuracy)
    within = evaluated[evaluated[self.spent] <= self.amount]
    if within.empty:
      return None, float('nan')
    return int(within['round'].iloc[-1]), within[accuracy].iloc[-1]


def cheapest(spent: str, curves: Iterable[pd.DataFrame]) -> Budget:
  """The total cost of the cheapest run, as a budget."""
  return Budget(spent, min(curve[spent].iloc[-1] for curve in curves))
