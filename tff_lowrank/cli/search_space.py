"""The search space of `tff-lowrank tune`: flags and their ranges."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from absl import app
from absl import flags
import optuna

from tff_lowrank.cli import run_flags
from tff_lowrank.runs import errors

_GRAMMAR = 'FLAG=uniform:LOW:HIGH, FLAG=log:LOW:HIGH or FLAG=choice:A|B|C'


@dataclasses.dataclass(frozen=True)
class Dimension:
  """The range of one flag: `bounds`, uniform or logarithmic, or `choices`.

  Values have the flag's type, so they are integers for an integer flag; choices are texts.
  """

  flag: str
  bounds: tuple[float, float] | None = None
  is_log: bool = False
  choices: tuple[str, ...] = ()

  def first(self) -> Any:
    """One of the values."""
    return self.bounds[0] if self.bounds else run_flags.parse_value(self.flag, self.choices[0])

  def suggest(self, trial: optuna.Trial) -> Any:
    """The value to try."""
    if self.bounds is None:
      choice = trial.suggest_categorical(self.flag, self.choices)
      return run_flags.parse_value(self.flag, choice)
    is_whole = flags.FLAGS[self.flag].flag_type() == 'int'
    suggest: Any = trial.suggest_int if is_whole else trial.suggest_float
    return suggest(self.flag, *self.bounds, log=self.is_log)


def _parse_range(text: str, flag: str, kind: str, rest: str) -> Dimension:
  if flags.FLAGS[flag].flag_type() not in ('int', 'float'):
    raise app.UsageError(f'--search: --{flag} is not a number; expected choice: in {text!r}.')
  low, colon, high = rest.partition(':')
  if not colon or ':' in high:
    raise app.UsageError(f'--search: expected {kind}:LOW:HIGH in {text!r}.')
  bounds = tuple(run_flags.parse_value(flag, bound) for bound in (low, high))
  if not bounds[0] < bounds[1]:
    raise app.UsageError(f'--search: expected a lower and then a higher bound in {text!r}.')
  if kind == 'log' and not bounds[0] > 0:
    raise app.UsageError(f'--search: log needs bounds above 0 in {text!r}.')
  return Dimension(flag, bounds=bounds, is_log=kind == 'log')


def _parse_choice(text: str, flag: str, rest: str) -> Dimension:
  choices = tuple(rest.split('|'))
  if len(choices) < 2 or len(set(choices)) < len(choices):
    raise app.UsageError(f'--search: expected several different choices in {text!r}.')
  for choice in choices:
    run_flags.parse_value(flag, choice)
  return Dimension(flag, choices=choices)


def _parse_one(text: str, method: str) -> Dimension:
  flag, equals, how = text.partition('=')
  kind, colon, rest = how.partition(':')
  if not equals or not colon or kind not in ('uniform', 'log', 'choice'):
    raise app.UsageError(f'--search: expected {_GRAMMAR}, found {text!r}.')
  with errors.as_setting_errors('--search'):
    run_flags.check_name(flag, method)
  if run_flags.given(flag):
    raise app.UsageError(f'--{flag} is given and also searched over; remove one of the two.')
  if kind == 'choice':
    return _parse_choice(text, flag, rest)
  return _parse_range(text, flag, kind, rest)


def parse(text: str, method: str) -> Sequence[Dimension]:
  """Parses `--search`: dimensions separated by commas that are not in parentheses.

  Raises UsageError if one does not follow the grammar, is not a flag of `method`, or has a value
  that is invalid for the flag.
  """
  found = [_parse_one(part, method) for part in run_flags.split_at_commas(text)]
  names = [dimension.flag for dimension in found]
  if len(set(names)) < len(names):
    raise app.UsageError(f'--search: expected different flags, found {text!r}.')
  return found
