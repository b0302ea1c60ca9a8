"""Follows a run's accuracy: which evaluation is best, and when to stop early."""

from collections.abc import Mapping
from typing import Any

from tff_lowrank.runs import spec as spec_lib


class Judge:
  """Sees each evaluation of a run, in order."""

  def __init__(self, spec: spec_lib.RunSpec):
    self._spec = spec
    self._best: float | None = None
    self._best_round = 0
    self._since_best = 0
    self._last: float | None = None

  @property
  def column(self) -> str:
    """The column of metrics.csv to use: that of the personal models if the method has them."""
    return 'eval_personal_accuracy' if self._spec.record.is_personal else 'eval_accuracy'

  @property
  def best_round(self) -> int:
    """The first round with the best evaluation; 0 before any evaluation."""
    return self._best_round

  def see(self, row: Mapping[str, Any]) -> bool:
    """Adds a row of metrics; returns whether it is the best so far.

    A row without evaluation, or with an accuracy of NaN, never is. In files, both are NaN.
    """
    value, number = row[self.column], int(row['round'])
    is_number = value is not None and value == value
    if value is None or not (is_number or self._spec.is_evaluated(number)):
      return False
    is_best = is_number and (self._best is None or value > self._best)
    self._last = value if is_number else self._last
    if is_best:
      self._best, self._best_round, self._since_best = value, number, 0
    else:
      self._since_best += 1
    return is_best

  def reason_to_stop(self) -> str | None:
    """The reason to end the run now, as text; None if there is none."""
    spec = self._spec
    if spec.stop_at_accuracy is not None and (self._last or 0) >= spec.stop_at_accuracy:
      return f'its accuracy, {self._last:.4f}, is at least stop_at_accuracy={spec.stop_at_accuracy}'
    if spec.patience is not None and self._since_best >= spec.patience:
      if self._best is None:
        return f'the accuracy of the first {self._since_best} evaluations was NaN'
      return (
        f'none of the last {spec.patience} evaluations was better than that of round '
        f'{self._best_round}'
      )
    return None
