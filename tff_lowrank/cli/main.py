"""The program `tff-lowrank COMMAND FLAGS...`."""

import importlib
import sys
import types

# Name of a command -> its module, and what it does.
COMMANDS = {
  'train': ('train', 'train one method on one task'),
  'compare': ('compare', 'train several methods with the same sampled clients, and compare them'),
  'tune': ('tune', 'search for good hyper-parameters of a method'),
  'replay': ('replay', 'compute the time of recorded runs on other networks'),
  'advise': ('advise', 'predict how many bytes each method would save'),
  'gradient-space': ('gradient_space', 'compute the principal components of gradients'),
  'datasets': ('datasets', 'list, download, check and describe data sets'),
  'doctor': ('doctor', 'check the installation'),
}


def usage() -> str:
  """The usage text."""
  rows = '\n'.join(f'  {name:<16}{about}' for name, (_, about) in COMMANDS.items())
  return (
    f'usage: tff-lowrank COMMAND [FLAGS]\n\n{rows}\n\n`tff-lowrank COMMAND --help` lists its flags.'
  )


def binary(name: str) -> types.ModuleType:
  """The module of a command."""
  return importlib.import_module(f'{__package__}.{COMMANDS[name][0]}')


def name_of(module: types.ModuleType) -> str:
  """The name of the command in a module."""
  [name] = [n for n, (stem, _) in COMMANDS.items() if module.__name__ == f'{__package__}.{stem}']
  return name


def main() -> None:
  """Runs the command that the first argument names, with the other arguments."""
  name, *arguments = sys.argv[1:] or ['--help']
  if name in ('help', '--help', '-h'):
    print(usage())
    return
  if name not in COMMANDS:
    print(f'tff-lowrank has no command {name!r}.\n\n{usage()}', file=sys.stderr)
    sys.exit(2)
  sys.argv = [f'tff-lowrank {name}', *arguments]
  binary(name).run()


if __name__ == '__main__':
  main()
