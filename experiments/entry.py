"""How a binary starts and ends: one sentence and an exit status for whatever can go wrong."""

from collections.abc import Callable, Sequence
import signal
import sys

from absl import app
from absl import flags

from tff_lowrank.simulation import stopping

_DEBUG = flags.DEFINE_boolean('debug', False, 'Show the traceback of what went wrong.')

USAGE = 2


def parse(argv: Sequence[str]) -> list[str]:
  """Parses the command line; without --debug, exits with one sentence if it is wrong."""
  try:
    return flags.FLAGS(argv)
  except (flags.Error, ValueError, OSError) as e:  # The latter of a --flagfile.
    if any(argument in ('--debug', '-debug') for argument in argv):
      raise
    print(f'{e}\nPass --help for all flags.', file=sys.stderr)
    sys.exit(USAGE)


def guarded(main: Callable[[Sequence[str]], None]) -> Callable[[Sequence[str]], None]:
  """`main`, where what the user can mend is one sentence and exit status 2, without --debug.

  That are errors of usage, of values and of files; arguments that are no flags are the former. A
  run that was stopped by a signal and saved exits with 128 and the signal's number, as the shell
  has it.
  """

  def run_main(argv: Sequence[str]) -> None:
    try:
      if len(argv) > 1:
        raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
      main(argv)
    except stopping.Stopped as e:
      print(e, file=sys.stderr)
      sys.exit(e.exit_status)
    except KeyboardInterrupt:
      if _DEBUG.value:
        raise
      print('Interrupted; the same command goes on from the last checkpoint.', file=sys.stderr)
      sys.exit(128 + signal.SIGINT)
    except (app.UsageError, ValueError, OSError) as e:
      if _DEBUG.value:
        raise
      print(f'{e}\nPass --debug for the traceback.', file=sys.stderr)
      sys.exit(USAGE)

  return run_main


def run_without_tff(main: Callable[[Sequence[str]], None]) -> None:
  """Runs the `main` of a binary that does not import TFF."""
  app.run(guarded(main), flags_parser=parse)


def run(main: Callable[[Sequence[str]], None]) -> None:
  """Runs a binary's `main` on the command line."""
  from tff_lowrank import execution  # Takes seconds, which not all binaries need.

  # TFF's own default context complains when it ends unused.
  execution.set_local_context()
  run_without_tff(main)
