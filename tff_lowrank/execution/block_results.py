"""The results of a block of clients, and how they are merged into those of the cohort."""

from collections.abc import Callable, Iterable
from typing import Any

from tff_lowrank.execution import blocks
from tff_lowrank.execution import plan as plan_lib

# How many consecutive partial aggregates are merged into one of the next level.
FAN_IN = 16


class BlockResult:
  """The results of the clients of one block.

  partials: aggregation -> its partial aggregate; for an aggregation that cannot be merged, the
    value of the block's only client. Absent if there is none.
  level: the level of the partial aggregates in the tree of `Fold`; 0 is one block.
  kept: client -> name -> value, for the values that are needed after the stage.
  """

  def __init__(self):
    self.partials: dict[str, Any] = {}
    self.level = 0
    self.kept: dict[int, dict[str, Any]] = {}


class Fold:
  """Merges partial aggregates in a tree whose shape depends only on their number.

  `FAN_IN` consecutive ones, merged in their order, become one of the next level. Several of them
  can be merged elsewhere and added here as one of a higher level, with the same result.
  """

  def __init__(self, merge: Callable[[Any, Any], Any]):
    self._merge = merge
    self._levels: list[tuple[int, Any]] = []  # At each level: how many were merged, and the result.

  def add(self, partial: Any, level: int = 0) -> None:
    """Adds the next partial aggregate, of the given level."""
    while True:
      self._levels += [(0, None)] * (level + 1 - len(self._levels))
      count, total = self._levels[level]
      total = self._merge(total, partial) if count else partial
      if count + 1 < FAN_IN:
        self._levels[level] = (count + 1, total)
        return
      self._levels[level] = (0, None)
      partial, level = total, level + 1

  @property
  def is_empty(self) -> bool:
    return not any(count for count, _ in self._levels)

  def total(self) -> Any:
    """The merge of all that was added. Not allowed if nothing was."""
    rest: list[Any] = []
    for count, total in self._levels:
      if count:
        rest = [self._merge(total, rest[0]) if rest else total]
    return rest[0]


def merged(a: plan_lib.Aggregation, env: blocks.Environment, total: Any, partial: Any) -> Any:
  """Merges a partial aggregate into the total of an aggregation; a total of None is empty."""
  return partial if total is None else a.merge.function(env)([total, partial])


def collect(
  stage: plan_lib.Stage,
  env: blocks.Environment,
  num_clients: int,
  results: Iterable[BlockResult],
) -> dict[str, Any]:
  """The results of a stage by name: its aggregates, and the clients' values that are kept."""

  def fold_of(a: plan_lib.Aggregation) -> Fold:
    return Fold(lambda total, partial: merged(a, env, total, partial))

  folds = {a.name: fold_of(a) for a in stage.aggregations}
  totals: dict[str, Any] = {}
  kept: dict[str, list[Any]] = {name: [None] * num_clients for name in stage.keep}
  for result in results:
    for a in stage.aggregations:
      if a.name not in result.partials:
        continue
      partial = result.partials[a.name]
      if stage.can_merge:
        folds[a.name].add(partial, result.level)
      else:
        before = totals[a.name] if a.name in totals else a.zero.function(env)
        totals[a.name] = a.accumulate.function(env)([before, partial])
    for client, values in result.kept.items():
      for name, value in values.items():
        kept[name][client] = value
  found: dict[str, Any] = {}
  for a in stage.aggregations:
    if not folds[a.name].is_empty:
      totals[a.name] = folds[a.name].total()
    total = totals[a.name] if a.name in totals else a.zero.function(env)
    found[a.name] = a.report.function(env)(total)
  found.update({name: plan_lib.AtClients(of_clients) for name, of_clients in kept.items()})
  return found
