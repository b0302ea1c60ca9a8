"""Compares runs: tables, plots and a report, in one folder."""

import dataclasses
import pathlib

import pandas as pd

from tff_lowrank.reports import client_plots
from tff_lowrank.reports import curves
from tff_lowrank.reports import freezing_plots
from tff_lowrank.reports import plots
from tff_lowrank.reports import report
from tff_lowrank.reports import table as table_lib
from tff_lowrank.runs import errors
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import network as network_lib


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The result of a comparison.

  table: one row per run, see `reports.table.build_table`.
  summary: one row per method, means over seeds.
  budget: the budget at which runs are compared.
  metric: the metric in the columns named accuracy.
  pictures: the files of plots, and last the report.
  """

  table: pd.DataFrame
  summary: pd.DataFrame
  budget: curves.Budget
  metric: curves.Metric
  pictures: tuple[pathlib.Path, ...]

  @property
  def report(self) -> pathlib.Path:
    """The file of the report."""
    return self.pictures[-1]

  def to_markdown(self) -> str:
    """The table and, if there are several seeds, the summary."""
    text = table_lib.to_markdown(self.table, self.budget, self.metric)
    if self.table['seed'].nunique() > 1:
      text += '\n' + table_lib.to_markdown(self.summary, self.budget, self.metric)
    return text


def write(
  runs: curves.Runs,
  folder: pathlib.Path,
  network: network_lib.Network | None = None,
  at: str = 'rounds',
  budget: float | None = None,
) -> Comparison:
  """Writes tables, plots and report.html of labelled run folders into `folder`.

  Args:
    runs: Pairs of a method's label and a run folder, one per seed.
    folder: An existing folder.
    network: The network for the simulated time.
    at: The unit of the budget: `'rounds'`, `'bytes'` or `'seconds'`.
    budget: Runs are compared at this budget; if None, at the total of the cheapest run.

  Raises FileError if a file of a run cannot be used, and SettingError if two runs have the same
  label and seed.
  """
  with errors.as_setting_errors():
    curves.named(runs)
  network = network or network_lib.Network()
  if budget is None:
    chosen = curves.cheapest(at, [curves.read_curve(run, network) for _, run in runs])
  else:
    chosen = curves.Budget(at, budget)
  table = table_lib.build_table(runs, network, chosen)
  summary = table_lib.build_summary(table)
  metric = curves.metric(run for _, run in runs)
  for name, rows in dict(table=table, summary=summary).items():
    contents = dict(
      csv=rows.to_csv(index=False).encode(),
      parquet=rows.to_parquet(index=False),
      md=table_lib.to_markdown(rows, chosen, metric).encode(),
    )
    for suffix, content in contents.items():
      file_operations.replace(folder / f'{name}.{suffix}', content)
  pictures = folder / 'plots'
  drawn = plots.plot_accuracy(runs, pictures, metric)
  drawn.append(plots.plot_front(summary, pictures / 'pareto.png', metric))
  drawn += client_plots.plot_clients(runs, pictures / 'clients.png', metric)
  drawn += freezing_plots.plot_comparison(runs, pictures, metric)
  drawn.append(report.write_comparison(runs, folder / report.FILE, network, chosen))
  return Comparison(table, summary, chosen, metric, tuple(drawn))
