"""Compares runs: tables, plots and a page, in one folder."""

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
  """What runs were found to be.

  table: a row a run, see `reports.table.build_table`.
  summary: a row a method, means over seeds.
  budget: what they are compared at.
  metric: what the columns called accuracy hold.
  pictures: the files of plots, and last the page.
  """

  table: pd.DataFrame
  summary: pd.DataFrame
  budget: curves.Budget
  metric: curves.Metric
  pictures: tuple[pathlib.Path, ...]

  @property
  def report(self) -> pathlib.Path:
    """The page."""
    return self.pictures[-1]

  def to_markdown(self) -> str:
    """The table and, of several seeds, the summary."""
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
    runs: Label of the method and run folder; a method has as many as seeds.
    folder: Exists.
    network: For the simulated time.
    at: What they are compared at equal amounts of: `'rounds'`, `'bytes'` or `'seconds'`.
    budget: How much; what the run that spent least had spent in all, if None.

  Raises FileError if a file of a run cannot be used, and SettingError for runs that are alike in
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
