"""Checks of arguments; errors say what was expected and what was found."""

from collections.abc import Collection
from typing import Any


def check_type(name: str, value: Any, expected: type | tuple[type, ...]) -> None:
  """Raises TypeError unless `value` is an instance of `expected`; a bool is not a number here."""
  kinds = expected if isinstance(expected, tuple) else (expected,)
  if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
    names = ' or '.join(f'`{kind.__name__}`' for kind in kinds)
    raise TypeError(f'`{name}` must be {names}, found {value!r} of type {type(value).__name__}.')


def check_in_range(name: str, value: Any, low: float, high: float) -> None:
  """Raises unless `value` is a number with `low <= value <= high`."""
  check_type(name, value, (int, float))
  if not low <= value <= high:  # Also rejects NaN.
    raise ValueError(f'`{name}` must be in [{low}, {high}], found {value!r}.')


def check_at_least(name: str, value: Any, low: int) -> None:
  """Raises unless `value` is an integer of at least `low`."""
  check_type(name, value, int)
  if value < low:
    raise ValueError(f'`{name}` must be at least {low}, found {value!r}.')


def check_one_of(name: str, value: Any, allowed: Collection[Any]) -> None:
  if value not in allowed:
    listed = ', '.join(repr(a) for a in allowed)
    raise ValueError(f'`{name}` must be one of {listed}, found {value!r}.')
