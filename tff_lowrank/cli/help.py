"""What a binary's --help prints: its flags in groups, each with its default."""

from collections.abc import Iterable, Sequence
import inspect
import shutil
import textwrap
import types

from absl import flags

_ASKED = ('--help', '-help', '-h', '-?', '--helpshort', '-helpshort')
# Name of a group -> names of flags, in the order in which they are shown.
_GROUPS: dict[str, list[str]] = {}


def add(group: str, names: Iterable[str]) -> None:
  """Shows flags under `group`."""
  listed = _GROUPS.setdefault(group, [])
  listed += [name for name in names if name not in listed]


def is_asked(argv: Sequence[str]) -> bool:
  """Whether the command line asks for help."""
  before = argv[: argv.index('--')] if '--' in argv else argv
  return any(argument in _ASKED for argument in before)


def _default(flag: flags.Flag) -> str:
  """The default as it would be given."""
  if flag.default is None:
    return ''
  values = flag.default if isinstance(flag.default, list) else [flag.default]
  return ','.join(map(str, values))


def _entry(name: str, width: int) -> str:
  flag = flags.FLAGS[name]
  about = ' '.join(flag.help.split())
  if flag.flag_type() == 'bool':
    shown = f'--[no]{name}'
    about += f' {"On" if flag.default else "Off"} by default.'
  else:
    shown = f'--{name}={_default(flag)}'
  return f'  {shown}\n' + textwrap.fill(
    about, width, initial_indent=' ' * 6, subsequent_indent=' ' * 6, break_on_hyphens=False
  )


def text(module: types.ModuleType, command: str) -> str:
  """The help of the binary in `module`, which is run as `command`."""
  width = min(100, shutil.get_terminal_size().columns)
  own = [flag.name for flag in flags.FLAGS.flags_by_module_dict().get(module.__name__, ())]
  grouped = {name for names in _GROUPS.values() for name in names}
  groups = {f'Of {command}': [name for name in own if name not in grouped]}
  groups |= {group: [n for n in names if n in flags.FLAGS] for group, names in _GROUPS.items()}
  parts = [inspect.cleandoc(module.__doc__ or '')]
  for group, names in groups.items():
    if names:
      parts.append('\n'.join([f'{group}:', *(_entry(name, width) for name in names)]))
  parts.append(
    '--flagfile=FILE reads flags from a file, a flag a line; --helpfull lists all flags.'
  )
  return '\n\n'.join(parts)
