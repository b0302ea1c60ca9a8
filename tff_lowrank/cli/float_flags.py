"""Flags of finite numbers. absl's own take `nan`, which no bound refuses, and `inf`."""

import math

from absl import flags

flags.disclaim_key_flags()  # The flags belong to the modules that call `define`.


class _FiniteParser(flags.FloatParser):
  """As absl's own, of a flag called `name`, but for what is no finite number."""

  def __init__(self, name: str, lower_bound: float | None, upper_bound: float | None):
    super().__init__(lower_bound, upper_bound)
    self._name = name

  def convert(self, argument: str | float) -> float:
    value = super().convert(argument)
    if not math.isfinite(value):
      raise ValueError(f'--{self._name} must be a finite number, found {argument}.')
    return value


def define(
  name: str,
  default: float | None,
  description: str,
  lower_bound: float | None = None,
  upper_bound: float | None = None,
) -> flags.FlagHolder[float | None]:
  """As `flags.DEFINE_float`, of which it takes the place in all binaries."""
  holder = flags.DEFINE_float(name, default, description, lower_bound, upper_bound)
  flags.FLAGS[name].parser = _FiniteParser(name, lower_bound, upper_bound)
  return holder


def parse(name: str, text: str) -> float:
  """The number that `text`, a part of the flag called `name`, stands for.

  Raises ValueError if it is none, or not finite.
  """
  return _FiniteParser(name, None, None).parse(text)
