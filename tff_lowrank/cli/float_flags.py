"""Flags of finite numbers. absl's own take `nan`, which no bound refuses, and `inf`."""

import math

from absl import flags

from tff_lowrank import settings

flags.disclaim_key_flags()  # The flags belong to the modules that call `define`.


class _FiniteParser(flags.FloatParser):
  """As absl's own, of a flag called `name`, but for what is no finite number.

  by_client: whether it also takes `package.module:FUNCTION`, as it is.
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
  """As `flags.DEFINE_float`, of which it takes the place in all binaries.

  With `by_client` it may also be `package.module:FUNCTION`, and then is that text.
  """
  # absl's own validator of bounds takes numbers only.
  bounds = (None, None) if by_client else (lower_bound, upper_bound)
  holder = flags.DEFINE_float(name, default, description, *bounds)
  flags.FLAGS[name].parser = _FiniteParser(name, lower_bound, upper_bound, by_client)
  return holder


def parse(name: str, text: str) -> float:
  """The number that `text`, a part of the flag called `name`, stands for.

  Raises ValueError if it is none, or not finite.
  """
  return float(_FiniteParser(name, None, None).parse(text))
