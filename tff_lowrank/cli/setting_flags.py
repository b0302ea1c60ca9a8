"""Defines absl flags from settings."""

from absl import flags

from tff_lowrank import settings
from tff_lowrank.cli import float_flags
from tff_lowrank.cli import path_flag

flags.disclaim_key_flags()

_DEFINED: dict[str, settings.Setting] = {}


def define(setting: settings.Setting) -> None:
  """Defines the flag for a setting, unless it is defined already.

  Raises ValueError if another setting, or another flag, has the same name.
  """
  name, default, about = setting.name, setting.default, setting.about
  if name in flags.FLAGS:
    if _DEFINED.get(name) != setting:
      raise ValueError(f'There is already a flag named {name}. Give the setting another name.')
    return
  at_least = setting.above if setting.at_least is None else setting.at_least
  at_most = setting.below if setting.at_most is None else setting.at_most
  if setting.kind is bool:
    flags.DEFINE_bool(name, default, about)
  elif setting.kind is int:
    flags.DEFINE_integer(name, default, about, lower_bound=at_least, upper_bound=at_most)
  elif setting.kind is float:
    float_flags.define(name, default, about, at_least, at_most, setting.by_client)
  elif setting.choices:
    flags.DEFINE_enum(name, default, setting.choices, about)
  elif setting.is_path:
    path_flag.define(name, default, about)
  else:
    flags.DEFINE_string(name, default, about)
  _DEFINED[name] = setting
