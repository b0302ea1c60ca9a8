"""Trains several runs at the same time, each in its own process."""

from collections.abc import Mapping, Sequence
import ctypes
import functools
import os
import pathlib
import signal
import subprocess
import sys
import time

from tff_lowrank.simulation import stopping

LOG = 'log.txt'

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.1

# Linux only, as TFF; see prctl(2). Loaded here, since a child must not do so before its `exec`.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with(parent: int) -> None:
  """Lets the kernel kill this process, a child of `parent`, when the parent ends in any way.

  The run loses the rounds after its last checkpoint, as any killed run does.
  """
  _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent:  # The parent ended before the call.
    os._exit(1)


def _start(folder: pathlib.Path, arguments: Sequence[str]) -> subprocess.Popen:
  """Starts training in `folder`, in a separate session, which Ctrl-C does not reach."""
  folder.mkdir(parents=True, exist_ok=True)
  path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get('PYTHONPATH'))))
  with open(folder / LOG, 'ab') as log:
    return subprocess.Popen(
      [
        sys.executable,
        '-m',
        'tff_lowrank.cli.main',
        'train',
        *arguments,
        f'--output_dir={folder.absolute()}',
      ],
      env=os.environ | dict(PYTHONPATH=path),
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      start_new_session=True,
      preexec_fn=functools.partial(_end_with, os.getpid()),
    )


def _report(folder: pathlib.Path, status: int) -> None:
  log = folder / LOG
  last = log.read_text(errors='replace').splitlines()[-3:]
  print(f'{folder.name} failed with status {status}. From {log}:', *last, sep='\n  ',
        file=sys.stderr, flush=True)  # fmt: skip


class _Pool:
  """The running processes, by run folder."""

  def __init__(self) -> None:
    self.running: dict[pathlib.Path, subprocess.Popen] = {}

  def take_ended(self) -> list[tuple[pathlib.Path, int]]:
    """Folder and exit status of the processes that ended since the last call."""
    ended = [(f, p.returncode) for f, p in self.running.items() if p.poll() is not None]
    for folder, _ in ended:
      del self.running[folder]
    return ended

  def terminate(self) -> None:
    for process in self.running.values():
      process.terminate()

  def kill(self) -> None:
    for process in self.running.values():
      process.kill()
      process.wait()


def train_all(commands: Mapping[pathlib.Path, Sequence[str]], jobs: int) -> list[pathlib.Path]:
  """Runs `tff-lowrank train` for each run folder, at most `jobs` at the same time.

  The output of a run goes to log.txt in its folder. A failure is reported at once, and the other
  runs continue. Ctrl-C and SIGTERM are passed on as SIGTERM, after which each run saves itself; a
  second signal, or the end of this process, kills the processes that are still running.

  Args:
    commands: Run folder -> its flags, without --output_dir.
    jobs: At least 1.

  Returns:
    The folders of the runs that failed.

  Raises:
    stopping.Stopped: If a signal came before all runs had ended.
  """
  waiting, pool, failed, is_told = list(commands.items()), _Pool(), [], False
  with stopping.StopRequest() as stop:
    try:
      while pool.running or (waiting and not stop.is_made):
        while waiting and len(pool.running) < jobs and not stop.is_made:
          folder, arguments = waiting.pop(0)
          print(f'Training {folder.name}', flush=True)
          pool.running[folder] = _start(folder, arguments)
        if stop.is_made and not is_told:
          pool.terminate()
          is_told = True
        for folder, status in pool.take_ended():
          if status == 0:
            print(f'{folder.name} is finished', flush=True)
          elif not is_told:
            failed.append(folder)
            _report(folder, status)
        time.sleep(_POLL_SECONDS)
    finally:
      pool.kill()
  if stop.is_made:
    raise stopping.Stopped(
      stop.signal_number,
      'Stopped by a signal; runs are saved. The same command resumes them.',
    )
  return failed
