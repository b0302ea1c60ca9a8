"""The marker `each_once`: of a test's many cases, as few as show every value run in ./dev test."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest


def _values(item: pytest.Item) -> Iterator[tuple[Any, ...]]:
  """The values of a case: of each parameter, or each part of one that is a tuple of texts."""
  for name, value in item.callspec.params.items():
    if isinstance(value, tuple) and all(isinstance(part, str) for part in value):
      yield from ((name, place, part) for place, part in enumerate(value))
    else:
      yield name, id(value)  # Cases hold the same object.


def choose(cases: Sequence[Iterable[Any]]) -> set[int]:
  """The positions of few cases that have all values there are; all are shown about as often."""
  cases, seen, chosen = [frozenset(case) for case in cases], collections.Counter(), set()
  while missing := frozenset().union(*cases) - seen.keys():
    best = min(
      (i for i in range(len(cases)) if cases[i] & missing),
      key=lambda i: (-len(cases[i] & missing), sum(seen[value] for value in cases[i])),
    )
    chosen.add(best)
    seen.update(cases[best])
  return chosen


def mark(items: Iterable[pytest.Item]) -> None:
  """Marks as slow the cases of tests with `each_once` that show no value anew."""
  functions = collections.defaultdict(list)
  for item in items:
    if item.get_closest_marker('each_once') and not item.get_closest_marker('slow'):
      functions[item.nodeid.split('[')[0]].append(item)
  for cases in functions.values():
    chosen = choose([[*_values(item)] for item in cases])
    for i, item in enumerate(cases):
      if i not in chosen:
        item.add_marker(pytest.mark.slow)
