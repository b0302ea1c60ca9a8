"""Settings as fields of frozen dataclasses, with a description and limits of their values.

  >>> import dataclasses
  >>> from tff_lowrank import settings
  >>> @dataclasses.dataclass(frozen=True)
  ... class LbgmSettings(settings.Settings):
  ...   lbgm_threshold: float = settings.field(0.2, 'Largest error.', at_least=0, at_most=1)
  >>> LbgmSettings(lbgm_threshold=1)
  LbgmSettings(lbgm_threshold=1.0)
  >>> LbgmSettings(lbgm_threshold=1.5)
  Traceback (most recent call last):
    ...
  tff_lowrank.settings.SettingError: lbgm_threshold must be at most 1, found 1.5.

Command-line flags, help texts, records of runs and tables are generated from such fields.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
import types
import typing
from typing import Any, ClassVar

from tff_lowrank import objects

_LARGEST = 2**31 - 1


class SettingError(ValueError):
  """The value of a setting is invalid, or settings contradict each other."""


@dataclasses.dataclass(frozen=True)
class Setting:
  """One setting of a `Settings` class.

  kind: `bool`, `int`, `float` or `str`.
  about: a description, for `--help`.
  is_optional: whether None is allowed.
  at_least, above, at_most, below: bounds of a number.
  choices: the allowed texts; empty if they are checked elsewhere.
  is_path: whether a text is the path of a file or folder.
  by_client: whether a function from a client's id to its value, or its `package.module:NAME`, is
    allowed in place of one value for all clients; the caller must pass its values to `checked`.
  group: the group in `--help`.
  """

  name: str
  kind: type
  default: Any
  about: str
  is_optional: bool = False
  at_least: float | None = None
  above: float | None = None
  at_most: float | None = None
  below: float | None = None
  choices: tuple[str, ...] = ()
  is_path: bool = False
  by_client: bool = False
  group: str = ''

  def checked(self, value: Any) -> Any:
    """`value`, converted to float for a float setting; raises SettingError if it is invalid."""
    if (value is None and self.is_optional) or (self.by_client and is_function(value)):
      return value
    kinds: Any = (int, float) if self.kind is float else self.kind
    if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind is not bool):
      expected = _KINDS[self.kind] + " or a function of a client's id" * self.by_client
      raise SettingError(
        f'{self.name} must be {expected}, found {value!r} of type {type(value).__name__}.'
      )
    if self.kind in (int, float):
      self._check_number(value)
    elif self.choices and value not in self.choices:
      raise SettingError(f'{self.name} must be one of {", ".join(self.choices)}, found {value!r}.')
    return float(value) if self.kind is float else value

  def _check_number(self, value: float) -> None:
    if not math.isfinite(value):
      raise SettingError(f'{self.name} must be a finite number, found {value}.')
    at_most = _LARGEST if self.kind is int and self.at_most is None else self.at_most
    for is_kept, words, bound in (
      (self.at_least is None or value >= self.at_least, 'at least', self.at_least),
      (self.above is None or value > self.above, 'above', self.above),
      (at_most is None or value <= at_most, 'at most', at_most),
      (self.below is None or value < self.below, 'below', self.below),
    ):
      if not is_kept:
        raise SettingError(f'{self.name} must be {words} {bound}, found {value}.')


_KINDS = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'a text'}


def is_function(value: Any) -> bool:
  """Whether the value of a setting is a function, or the `package.module:NAME` of one."""
  return callable(value) or (isinstance(value, str) and objects.is_name(value))


def field(default: Any, about: str, **limits: Any) -> Any:
  """A field of a `Settings` class; `limits` are those of `Setting`."""
  return dataclasses.field(default=default, metadata=dict(about=about, **limits))


def of(cls: type['Settings']) -> Mapping[str, Setting]:
  """The settings of a class by name, in the order of its fields."""
  known: Any = cls  # To mypy 1.10 a class is not hashable.
  return _of(known)


@functools.cache
def _of(cls: Any) -> Mapping[str, Setting]:
  hints, found = typing.get_type_hints(cls), {}
  for entry in dataclasses.fields(cls):
    if 'about' not in entry.metadata:
      continue
    hint = hints[entry.name]
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    is_optional = type(None) in kinds
    [kind] = [kind for kind in kinds if kind in _KINDS]
    found[entry.name] = Setting(
      entry.name, kind, entry.default, is_optional=is_optional, **entry.metadata
    )
  return found


class Settings:
  """Base class of frozen dataclasses of settings; checks the values when an object is created."""

  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  def __post_init__(self) -> None:
    for name, setting in of(type(self)).items():
      object.__setattr__(self, name, setting.checked(getattr(self, name)))


@dataclasses.dataclass(frozen=True)
class NoSettings(Settings):
  """For methods without own settings."""
