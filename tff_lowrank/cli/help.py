"""The text of --help: a command's own flags, then others in groups, each with its default."""

from collections.abc import Iterable, Sequence
import inspect
import shutil
import textwrap
import types
from typing import Any

from absl import flags

_ASKED = ('--help', '-help', '-h', '-?', '--helpshort', '-helpshort')

# Groups in the order in which they are shown; those of methods are at METHODS.
_METHODS = 'METHODS'
_ORDER = ('Run', 'Data', 'Model', _METHODS, 'Saving', 'Network')
# Name of a group -> names of flags, in the order in which they are shown.
_GROUPS: dict[str, list[str]] = {}
# Name of a flag -> the methods that have this setting.
_METHODS_OF: dict[str, list[str]] = {}

# Flags that the last paragraph describes.
_OF_ALL = ('debug',)
# Shown in place of a default, by `flag_type`.
_STANDS_FOR = {'int': 'N', 'float': 'NUMBER', 'path': 'PATH', 'string enum': 'NAME'}
_FOOT = (
  'Flags are shown with their default values; N, NUMBER, NAME, PATH or TEXT means no default. '
  '--flagfile=FILE reads flags from a file, one per line; --debug shows the traceback of an error; '
  '--helpfull also lists the flags of libraries.'
)


def add(group: str, names: Iterable[str]) -> None:
  """Shows flags under `group`, one of `_ORDER`."""
  listed = _GROUPS.setdefault(group, [])
  listed += [name for name in names if name not in listed]


def add_method(method: str, names: Iterable[str]) -> None:
  """Shows flags as settings of `method`, and of other methods they are added for."""
  for name in names:
    owners = _METHODS_OF.setdefault(name, [])
    if method not in owners:
      owners.append(method)


def is_asked(argv: Sequence[str]) -> bool:
  """Whether the command line asks for help."""
  before = argv[: argv.index('--')] if '--' in argv else argv
  return any(argument in _ASKED for argument in before)


def flag_names(binary: types.ModuleType) -> list[str]:
  """The flags that have an effect in a command.

  They are defined in its module, or in modules of this package that it imports. UNUSED of a
  module names flags that have no effect in commands that import it.
  """
  by_module = flags.FLAGS.flags_by_module_dict()
  found, unused, seen, todo = [], {*_OF_ALL}, set(), [binary]
  while todo:
    module = todo.pop(0)
    if module.__name__ in seen or not module.__name__.startswith(f'{__package__}.'):
      continue
    seen.add(module.__name__)
    found += [flag.name for flag in by_module.get(module.__name__, ())]
    unused.update(getattr(module, 'UNUSED', ()))
    todo += [value for value in vars(module).values() if isinstance(value, types.ModuleType)]
  return [name for name in found if name not in unused]


def _groups(names: Sequence[str]) -> dict[str, list[str]]:
  """Title -> the flags that are shown under it."""
  titles: dict[str, Any] = {}
  for group in _ORDER:
    if group == _METHODS:
      for name, owners in _METHODS_OF.items():
        title = f'Method{"s" * (len(owners) > 1)} {", ".join(owners)}'
        titles.setdefault(title, []).append(name)
    else:
      titles[group] = _GROUPS.get(group, [])
  return {title: [name for name in listed if name in names] for title, listed in titles.items()}


def _entry(name: str, width: int) -> str:
  flag = flags.FLAGS[name]
  about, shown = ' '.join(flag.help.split()), f'--{name}'
  if isinstance(flag.parser, flags.EnumParser):
    # absl puts all values in front.
    about = f'{about.partition(">: ")[2]} One of {", ".join(flag.parser.enum_values)}.'
  if flag.flag_type() == 'bool':
    shown = f'--[no]{name}'
    about += f' {"On" if flag.default else "Off"} by default.'
  elif flag.default in (None, ''):
    shown += f'={_STANDS_FOR.get(flag.flag_type(), "TEXT")}'
  else:
    values = flag.default if isinstance(flag.default, list) else [flag.default]
    shown += f'={",".join(map(str, values))}'
  return f'  {shown}\n{_filled(about, width, " " * 6)}'


def _filled(text: str, width: int, indent: str = '') -> str:
  return textwrap.fill(
    text, width, initial_indent=indent, subsequent_indent=indent,
    break_on_hyphens=False, break_long_words=False,
  )  # fmt: skip


def _about(text: str, width: int) -> str:
  """A docstring, wrapped except for its examples, which are indented."""
  parts = inspect.cleandoc(text).split('\n\n')
  return '\n\n'.join(part if part[:1] == ' ' else _filled(part, width) for part in parts)


def text(binary: types.ModuleType, name: str, command: str) -> str:
  """The help of the command called `name`, which the user ran as `command`."""
  width = min(100, shutil.get_terminal_size().columns)
  names = flag_names(binary)
  groups = _groups(names)
  grouped = {name for listed in groups.values() for name in listed}
  groups = {name.capitalize(): [name for name in names if name not in grouped]} | groups
  about = (binary.__doc__ or '').replace(f'tff-lowrank {name}', command)
  parts = [_about(about, width)]
  for title, listed in groups.items():
    if listed:
      parts.append('\n'.join([f'{title}:', *(_entry(name, width) for name in listed)]))
  return '\n\n'.join([*parts, _filled(_FOOT, width)])
