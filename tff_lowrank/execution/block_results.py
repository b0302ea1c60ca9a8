"""What a block of clients gives, and how the results of blocks become those of the cohort."""

from collections.abc import Callable, Iterable
from typing import Any

from tff_lowrank.execution import blocks
from tff_lowrank.execution import plan as plan_lib

# How many neighbouring partial aggregates make one of the next level.
FAN_IN = 16


class BlockResult:
  """What the clients of one block gave.

  partials: aggregation -> its partial aggregate, or where partial aggregates cannot be merged
    the one client's value; absent if there is none.
  level: of the partial aggregates in the tree of `Fold`: 0 is of one block.
  kept: client -> the values to keep by name.
  """

  def __init__(self):
    self.partials: dict[str, Any] = {}
    self.level = 0
    self.kept: dict[int, dict[str, Any]] = {}


class Fold:
  """Merges partial aggregates in a tree whose shape depends on their number alone.

  `FAN_IN` neighbours, merged one by one in their order, make one of the next level. Who merges
  them, and when, does not matter: one of a higher level can be added in place of its parts.
  """

  def __init__(self, merge: Callable[[Any, Any], Any]):
    self._merge = merge
    self._levels: list[tuple[int, Any]] = []  # At each level, how many were merged, and into what.

  def add(self, partial: Any, level: int = 0) -> None:
    """Adds the next partial aggregate, which is one of `level`."""
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
    """All that was added, merged. Not for one that is empty."""
    rest: list[Any] = []
    for count, total in self._levels:
      if count:
        rest = [self._merge(total, rest[0]) if rest else total]
    return rest[0]


def merged(a: plan_lib.Aggregation, env: blocks.Environment, total: Any, partial: Any) -> Any:
  """The total of an aggregation, None if there is none yet, with one more partial aggregate."""
  return partial if total is None else a.merge.function(env)([total, partial])


def collect(
  stage: plan_lib.Stage,
  env: blocks.Environment,
  num_clients: int,
  results: Iterable[BlockResult],
) -> dict[str, Any]:
  """What a stage gives: its aggregates, and the clients' values to keep, by name."""

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
