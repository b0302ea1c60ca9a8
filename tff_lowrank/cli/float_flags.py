"""Flags of finite numbers. absl's own flags accept `inf`, and `nan` whatever the bounds."""

import math

from absl import flags

from tff_lowrank import settings

flags.disclaim_key_flags()  # A flag belongs to the module that calls `define`.


class _FiniteParser(flags.FloatParser):
  """As absl's own parser, for the flag `name`, but rejects numbers that are not finite.

  by_client: whether it also accepts `package.module:FUNCTION`, unchanged.
  """

  def __init__(
    self,
    name: str,
    lower_bound: float | None,
    upper_bound: float | None,
    by_client: bool = False,
  ):
    super().__init__(lower_bound, upper_bound)
    self._name, self._by_client = name, by_client

  def parse(self, argument: str | float) -> float | str:
    if self._by_client and settings.is_function(argument):
      return argument
    return super().parse(argument)

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
  by_client: bool = False,
) -> flags.FlagHolder[float | None]:
  """As `flags.DEFINE_float`, for all commands.

  With `by_client` the value may also be `package.module:FUNCTION`, as text.
  """
  # absl's own validator of bounds accepts only numbers.
  bounds = (None, None) if by_client else (lower_bound, upper_bound)
  holder = flags.DEFINE_float(name, default, description, *bounds)
  flags.FLAGS[name].parser = _FiniteParser(name, lower_bound, upper_bound, by_client)
  return holder


def parse(name: str, text: str) -> float:
  """Parses `text`, a part of the value of flag `name`, as a number.

  Raises ValueError if it is not a finite number.
  """
  return float(_FiniteParser(name, None, None).parse(text))
