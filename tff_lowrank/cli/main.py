"""The command `tff-lowrank NAME FLAGS...`: one of the binaries."""

import importlib
import sys

# Name -> module, and what it does.
COMMANDS = {
  'train': ('train', 'train one method on one task'),
  'compare': ('compare', 'train several methods on the same clients, and compare them'),
  'tune': ('tune', 'search for good flags of a method'),
  'replay': ('replay', 'the time that recorded runs would take on other networks'),
  'advise': ('advise', 'predict what each method would save'),
  'gradient-space': ('gradient_space', 'the principal components of gradients'),
  'datasets': ('datasets', 'list, fetch, check and describe data sets'),
  'doctor': ('doctor', 'check the installation'),
}


def usage() -> str:
  """What the command takes."""
  rows = '\n'.join(f'  {name:<16}{about}' for name, (_, about) in COMMANDS.items())
  return (
    f'usage: tff-lowrank COMMAND [FLAGS]\n\n{rows}\n\n`tff-lowrank COMMAND --help` lists its flags.'
  )


def main() -> None:
  """Runs the binary that the first argument names, on the others."""
  name, *arguments = sys.argv[1:] or ['--help']
  if name in ('help', '--help', '-h'):
    print(usage())
    return
  if name not in COMMANDS:
    print(f'tff-lowrank has no command {name!r}.\n\n{usage()}', file=sys.stderr)
    sys.exit(2)
  sys.argv = [f'tff-lowrank {name}', *arguments]
  importlib.import_module(f'tff_lowrank.cli.{COMMANDS[name][0]}').run()


if __name__ == '__main__':
  main()
