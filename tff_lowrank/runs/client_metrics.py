"""Writes loss, accuracy and number of examples of each client by round into the run folder."""

from collections.abc import Sequence
import csv
import io
import pathlib

import pandas as pd

from tff_lowrank.reports import run_files
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import evaluation
from tff_lowrank.simulation import file_operations

LOG = 'client_metrics.csv'
_COLUMNS = ('round', *evaluation.ClientMetrics._fields)
_TYPES = dict(round='int64', client=str, loss='float64', accuracy='float64', examples='int64')


class ClientMetricsLog:
  """A log with an entry per round, which checkpoints can rewind; a Parquet file in the end."""

  def __init__(self, folder: pathlib.Path):
    """Opens the log in `folder`, which exists."""
    self._folder = folder
    self.log = append_log.AppendLog(folder / LOG)

  def add(self, round_num: int, found: Sequence[evaluation.ClientMetrics]) -> None:
    """Adds a round."""
    text = io.StringIO(newline='')
    writer = csv.writer(text)
    if self.log.is_empty:
      writer.writerow(_COLUMNS)
    writer.writerows((round_num, *metrics) for metrics in found)
    self.log.append(text.getvalue().encode(errors='surrogateescape'))

  def close(self) -> None:
    """Writes client_metrics.parquet: int64 `round` and `examples`, float64 `loss`, `accuracy`."""
    path = self.log.path
    if path.stat().st_size:
      table = pd.read_csv(path, dtype=_TYPES, keep_default_na=False,
                          na_values=dict(loss=['nan'], accuracy=['nan']))  # fmt: skip
      content = table.to_parquet(index=False)
      file_operations.replace(self._folder / run_files.CLIENTS, content)
    self.log.close()
