"""How a command starts and ends: each error becomes one sentence and an exit status."""

from collections.abc import Callable, Collection, Iterator, Sequence
import functools
import logging
import os
import pathlib
import re
import signal
import sys
import types

from absl import app
from absl import flags

from tff_lowrank import files
from tff_lowrank import settings
from tff_lowrank.cli import help as help_lib
from tff_lowrank.cli import main as commands
from tff_lowrank.cli import streams
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import stopping

_DEBUG = flags.DEFINE_boolean('debug', False, 'Show the traceback of an error.')

USAGE = 2

# Called with the arguments, including those of --flagfile, before they are parsed.
BEFORE_PARSING: list[Callable[[Sequence[str]], None]] = []

# Errors for the user: invalid settings, unusable files, errors of the operating system. A
# ValueError about settings is converted to one of these elsewhere: see `runs.spec`.
_FOR_USERS = (
  app.UsageError,
  settings.SettingError,
  flags.Error,
  files.FileError,
  manifest.DamagedError,
  manifest.MismatchError,
  OSError,
)


def _on_one_line(error: BaseException | str) -> str:
  """The message of an error on one line; unprintable characters, as in file names, are escaped."""
  return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in str(error))


def _flag_files(arguments: Sequence[str]) -> Iterator[str]:
  """The files named by --flagfile in arguments, or in the lines of such a file."""
  for argument, after in zip(arguments, [*arguments[1:], ''], strict=True):
    if found := re.fullmatch(r'--?flagfile(=.*)?', argument.strip()):
      yield os.path.expanduser((found[1] or f'={after}')[1:].strip())


def _check_flag_file(name: str, around: Collection[str] = ()) -> None:
  """Raises FileError unless a flag file, and the flag files it names, can be read.

  Args:
    name: The name of the file; a FIFO is not checked, since it can be read only once.
    around: The files that include this one; they are not checked again.
  """
  if not name or name in around or pathlib.Path(name).is_fifo():
    return
  expected = 'a file with one flag per line, in UTF-8'
  try:
    with files.reading(name, expected):
      lines = pathlib.Path(name).read_text().splitlines()
  except OSError as e:
    raise files.FileError(name, expected, e.strerror) from e
  for inner in _flag_files(lines):
    _check_flag_file(inner, (*around, name))


def _command(argv: Sequence[str]) -> str:
  """The command as the user typed it."""
  path = pathlib.Path(argv[0])
  return f'python -m {path.parent.name}.{path.stem}' if path.suffix == '.py' else argv[0]


def _explained(error: Exception, binary: types.ModuleType | None) -> str:
  """The message of a command-line error; for a flag of other commands, it names these commands."""
  if binary is None or not isinstance(error, flags.UnrecognizedFlagError):
    return str(error)
  found, this = error.flagname, commands.name_of(binary)
  owners = [
    name
    for name in commands.COMMANDS
    if name != this
    and {found, found.removeprefix('no')} & {*help_lib.flag_names(commands.binary(name))}
  ]
  if not owners:
    return str(error)
  return f'--{found} is a flag of tff-lowrank {" and ".join(owners)}, not of {this}.'


def parse(argv: Sequence[str], binary: types.ModuleType | None = None) -> list[str]:
  """Parses the command line; without --debug, exits with one sentence if it is wrong.

  With --help, prints the help of `binary`, the module with the flags, and exits with status 0.
  """
  is_debug = any(argument in ('--debug', '-debug') for argument in argv)
  try:
    try:
      # Read once: the file may be a pipe.
      arguments = flags.FLAGS.read_flags_from_files(argv[1:], force_gnu=False)
      for prepare in BEFORE_PARSING:
        prepare(arguments)
      if binary is not None and help_lib.is_asked(argv):
        print(help_lib.text(binary, commands.name_of(binary), _command(argv)), flush=True)
        sys.exit(0)
      return flags.FLAGS([argv[0], *arguments])
    except (flags.CantOpenFlagFileError, ValueError):
      for name in _flag_files(argv):
        _check_flag_file(name)
      raise
    except SystemExit:  # After --help.
      sys.stdout.flush()
      raise
  except (flags.Error, ValueError) as e:
    if is_debug:
      raise
    print(f'{_on_one_line(_explained(e, binary))}\nPass --help for all flags.', file=sys.stderr)
    sys.exit(USAGE)
  except OSError as e:
    if is_debug:
      raise
    print(_on_one_line(e), file=sys.stderr)
    sys.exit(USAGE)


def guarded(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
  """Wraps `main`: an error that the user can fix prints one sentence and exits with status 2.

  These are `_FOR_USERS`; arguments that are not flags are usage errors. Any other error is a bug
  in this package and shows its traceback, and so does every error with --debug. A run that a
  signal stopped exits with 128 plus the signal's number, as in a shell.
  """

  def run_main(argv: Sequence[str]) -> None:
    try:
      if len(argv) > 1:
        raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
      main(argv)
      sys.stdout.flush()
    except stopping.Stopped as e:
      print(_on_one_line(e), file=sys.stderr)
      sys.exit(e.exit_status)
    except KeyboardInterrupt:
      if _DEBUG.value:
        raise
      print('Interrupted; the same command resumes from the last checkpoint.', file=sys.stderr)
      sys.exit(128 + signal.SIGINT)
    except _FOR_USERS as e:
      if _DEBUG.value:
        raise
      print(f'{_on_one_line(e)}\nPass --debug for the traceback.', file=sys.stderr)
      sys.exit(USAGE)

  return run_main


def _log_warnings_once() -> None:
  """Shows warnings as single lines, and lower levels only with --verbosity.

  app.run shows more, and every line twice if a library has its own handler.
  """
  is_asked = flags.FLAGS['verbosity'].present
  level = logging.root.level if is_asked else logging.WARNING
  logging.basicConfig(format='%(levelname)s: %(message)s', level=level, force=True)


def run_without_tff(main: Callable[[Sequence[str]], None]) -> None:
  """Runs the `main` of a command that does not import TFF."""
  streams.keep_going()
  binary, guarded_main = sys.modules[main.__module__], guarded(main)

  def run_main(argv: Sequence[str]) -> None:
    _log_warnings_once()
    guarded_main(argv)

  app.run(run_main, flags_parser=functools.partial(parse, binary=binary))


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs the `main` of a command with the command-line arguments."""
  from tff_lowrank import execution  # Takes seconds, and not all commands need it.

  # TFF's own default context logs an error when it ends unused.
  execution.set_local_context()
  run_without_tff(main)
