"""The flags of a run, defined from its settings and those of methods, and the `RunSpec` of them."""

from collections.abc import Mapping, Sequence
import pathlib
import re
from typing import Any

from absl import app
from absl import flags

from tff_lowrank import methods
from tff_lowrank import settings
from tff_lowrank.cli import entry
from tff_lowrank.cli import help as help_lib
from tff_lowrank.cli import path_flag
from tff_lowrank.cli import setting_flags
from tff_lowrank.runs import errors
from tff_lowrank.runs import spec as spec_lib

# The methods whose settings are flags: this package's, and users' own ones if they are named.
_METHODS = dict(methods.METHODS)

for _setting in settings.of(spec_lib.RunSpec).values():
  setting_flags.define(_setting)
  help_lib.add(_setting.group.capitalize(), [_setting.name])

_OUTPUT_DIR = path_flag.define('output_dir', None, 'Folder for all output files.')


def add_method(name: str) -> None:
  """Defines the flags of the method's own settings; raises SettingError if it does not exist."""
  with errors.as_setting_errors():
    _METHODS[name] = methods.find(name)
    for setting in settings.of(_METHODS[name].settings).values():
      setting_flags.define(setting)
  help_lib.add_method(name, _METHODS[name].setting_names)


for _name in methods.METHODS:
  add_method(_name)


def _add_own_methods(arguments: Sequence[str]) -> None:
  """Defines the flags of users' own methods that the arguments name, before they are parsed."""
  for argument, after in zip(arguments, [*arguments[1:], ''], strict=False):
    if found := re.fullmatch(r'--?methods?(=.*)?', argument, re.DOTALL):
      for text in split_at_commas((found[1] or f'={after}')[1:]):
        method = split_method(text)[0]
        if ':' in method:
          add_method(method)


entry.BEFORE_PARSING.append(_add_own_methods)


def split_method(text: str) -> tuple[str, list[str]]:
  """The parts of `METHOD:FLAG=VALUE:...`; METHOD and the VALUEs may contain colons."""
  method, *parts = text.split(':')
  if method not in methods.METHODS and parts and '=' not in parts[0]:
    method = f'{method}:{parts.pop(0)}'
  found: list[str] = []
  for part in parts:
    if found and '=' not in part:
      found[-1] += f':{part}'
    else:
      found.append(part)
  return method, found


def output_folder() -> pathlib.Path:
  """The value of --output_dir; raises UsageError if it is missing or empty."""
  if _OUTPUT_DIR.value is None:
    raise app.UsageError('--output_dir is missing: the folder for all output files.')
  if not _OUTPUT_DIR.value:
    raise app.UsageError('--output_dir: expected a folder, found an empty name.')
  return pathlib.Path(_OUTPUT_DIR.value)


def given(name: str) -> bool:
  """Whether the user set the flag."""
  return flags.FLAGS[name].present > 0


def of_other_methods(chosen: Sequence[str]) -> dict[str, str]:
  """The flags that do not belong to the methods `chosen` -> a method that they belong to."""
  with errors.as_setting_errors():
    used = {name for method in chosen for name in methods.find(method).setting_names}
  found: dict[str, Any] = {}
  for method, record in _METHODS.items():
    for name in record.setting_names:
      if name not in used:
        found.setdefault(name, method)
  return found


def check_method_flags(chosen: Sequence[str]) -> None:
  """Raises UsageError if a given flag does not belong to any of the methods `chosen`."""
  for name, method in of_other_methods(chosen).items():
    if given(name):
      raise app.UsageError(
        f'--{name} has no effect with {", ".join(sorted(set(chosen)))}; it belongs to '
        f'--method={method}.'
      )


def check_unused(names: Sequence[str]) -> None:
  """Raises UsageError if a given flag has no effect in a study of FedAvg."""
  for name in names:
    if given(name):
      raise app.UsageError(f'--{name} has no effect here: this command trains with plain FedAvg.')


def check_family_flags(chosen: Sequence[spec_lib.RunSpec]) -> None:
  """Raises UsageError if a flag of factorised layers is given, but no run has such layers."""
  families = sorted({spec.model_family for spec in chosen})
  for name in spec_lib.FAMILY_SETTINGS:
    if given(name) and not any(spec_lib.has_family_setting(f, name) for f in families):
      raise app.UsageError(f'--{name} has no effect with --model_family={", ".join(families)}.')


def run_spec(method: str, overrides: Mapping[str, Any] | None = None) -> spec_lib.RunSpec:
  """The spec for `method` from the flags; `overrides` replace single settings.

  Flags of other methods, or of factorised layers if the model has none, are ignored: see
  `check_method_flags` and `check_family_flags`.

  Raises SettingError if the settings contradict each other.
  """
  overrides = dict(overrides or {})
  with errors.as_setting_errors():
    record = methods.find(method)
  names = [*settings.of(spec_lib.RunSpec), *record.setting_names]
  chosen = {name: flags.FLAGS[name].value for name in names if given(name)}
  family = record.model_family or (chosen | overrides).get('model_family', 'original')
  for name in spec_lib.FAMILY_SETTINGS:
    if not spec_lib.has_family_setting(family, name):
      chosen.pop(name, None)
  return spec_lib.make(method, {**chosen, **overrides})


def split_at_commas(text: str) -> list[str]:
  """Splits `text` at commas that are not in parentheses."""
  parts, depth = [''], 0
  for character in text:
    depth += (character == '(') - (character == ')')
    if character == ',' and depth == 0:
      parts.append('')
    else:
      parts[-1] += character
  return [part.strip() for part in parts]


def check_name(name: str, method: str) -> None:
  """Raises SettingError unless `name` is a setting that may differ between runs of `method`."""
  if name == 'seed':
    raise settings.SettingError('Expected a setting of a run, found seed: use --seeds.')
  spec_lib.check_name(name, method)


def parse_value(name: str, text: str) -> Any:
  """Parses `text` as the value of flag `name`; raises UsageError if it is invalid."""
  try:
    return flags.FLAGS[name].parser.parse(text)
  except ValueError as e:
    raise app.UsageError(f'--{name}: {e}') from e


def to_arguments(spec: spec_lib.RunSpec) -> list[str]:
  """The arguments of `tff-lowrank train` for `spec`: settings that are not at their default."""
  values = spec.as_dict()
  arguments = [f'--method={values.pop("method")}']
  for name, value in values.items():
    if value != flags.FLAGS[name].default:
      arguments.append(f'--{name}={value}')
  return arguments
