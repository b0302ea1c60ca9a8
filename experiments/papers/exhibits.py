"""What an exhibit of a paper is, and how its table is made from results of `compare`."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import NamedTuple

import pandas as pd

from tff_lowrank.reports import statistics


class Measure(NamedTuple):
  """A column of an exhibit's table.

  column: that of the results, see `results.Results.table`.
  scale: a factor of the shown number. decimals: its decimals.
  """

  column: str
  scale: float
  decimals: int


# Keys are the headings. Bytes are those of all clients; MB are 10^6 bytes.
MEASURES = {
  'accuracy, %': Measure('final_accuracy', 100, 1),
  'own accuracy, %': Measure('final_personal_accuracy', 100, 1),
  'uplink saved, %': Measure('uplink_saving_percent', 1, 1),
  'bytes saved, %': Measure('saving_percent', 1, 1),
  'up MB': Measure('uplink_bytes', 1e-6, 1),
  'total MB': Measure('total_bytes', 1e-6, 1),
  'times fewer bytes': Measure('byte_ratio', 1, 1),
  'transfer a round, s': Measure('round_seconds', 1, 3),
}


class Row(NamedTuple):
  """A row of an exhibit's table.

  method: as in the column `method` of the results.
  published: the paper's values by heading.
  """

  label: str
  method: str
  published: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Exhibit:
  """A table or figure of a paper that is made from runs of one preset.

  name: that of --only, such as `'figure_3'`.
  title: what it shows.
  preset: the preset in experiments/presets whose results are in experiments/results, if committed.
  rows: the methods that it shows; the first is the one that savings refer to.
  measures: headings of the columns, keys of `MEASURES`.
  full: the preset of the paper's own scale; None if it is `preset`, or if there is none.
  figure: `'curves'` (accuracy by rounds and bytes), `'freezing'` (accuracy and frozen share by
    round), `'points'` (accuracy and bytes at the end); None for no figure.
  note: what agrees with the paper, what does not, and why.
  """

  name: str
  title: str
  preset: str
  rows: tuple[Row, ...]
  measures: tuple[str, ...]
  full: str | None = None
  figure: str | None = None
  note: str = ''

  @property
  def methods(self) -> list[str]:
    """The methods of all rows."""
    return [row.method for row in self.rows]

  @property
  def accuracy(self) -> str:
    """The column of the accuracy that is compared."""
    own = 'own accuracy, %' in self.measures
    return 'final_personal_accuracy' if own else 'final_accuracy'


@dataclasses.dataclass(frozen=True)
class Computed:
  """A table that is computed without training.

  table: returns its rows. The other attributes are those of `Exhibit`.
  """

  name: str
  title: str
  table: Callable[[], pd.DataFrame]
  note: str = ''


@dataclasses.dataclass(frozen=True)
class Study:
  """Figures of the principal components of gradients, by `experiments.gradient_space`.

  preset: the preset in experiments/presets; its results are in a folder of that name.
  The other attributes are those of `Exhibit`.
  """

  name: str
  title: str
  preset: str
  note: str = ''


def _mean(values: pd.Series, measure: Measure) -> str:
  """The mean over seeds, with half its 95 % interval if there are several seeds."""
  values = values.dropna() * measure.scale
  if values.empty:
    return ''
  text = f'{values.mean():,.{measure.decimals}f}'
  if len(values) > 1:
    half = float(statistics.half_width(values.std(), len(values)))
    text += f' ± {half:,.{measure.decimals}f}'
  return text


def table(exhibit: Exhibit, runs: pd.DataFrame) -> pd.DataFrame:
  """The table of an exhibit: published values beside ours.

  Args:
    exhibit: The exhibit.
    runs: `results.Results.table` of its preset; rows of other methods are ignored.
  """
  rows = []
  for row in exhibit.rows:
    own = runs[runs['method'] == row.method]
    shown = {'': row.label}
    for heading in exhibit.measures:
      if any(heading in other.published for other in exhibit.rows):
        shown[f'paper: {heading}'] = row.published.get(heading, '')
      measure = MEASURES[heading]
      values = own[measure.column] if measure.column in own else pd.Series(dtype=float)
      shown[heading] = _mean(values, measure)
    rows.append(shown | dict(seeds=str(own['seed'].nunique() or '')))
  return pd.DataFrame(rows)
