"""Runs a binary while it is killed again and again.

  python -m tests.cli.killed_runs FOLDER NUM_KILLS SEED BINARY FLAGS...

runs `train`, `compare` or `tune` without interruption into FOLDER/whole; then into FOLDER/killed-0,
where the process is killed with SIGKILL at random moments and started again each time, until it is
done; then into FOLDER/killed-1 and so on, until NUM_KILLS kills were made. Prints the rows of
metrics that there were at each kill.
"""

import os
import pathlib
import random
import signal
import sys
import time

from tests.cli import binaries

import tff_lowrank.cli.compare  # isort: skip
import tff_lowrank.cli.train  # isort: skip
import tff_lowrank.cli.tune  # isort: skip  # noqa: F401


def start(folder, binary, flags):
  """Runs a binary in a process of its own, a copy of this one, and returns its id."""
  pid = os.fork()
  if pid:
    return pid
  try:
    os.dup2(os.open(f'{folder}.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    binaries.run(binary, *flags, f'--output_dir={folder}')
    os._exit(0)
  except BaseException:
    import traceback

    traceback.print_exc()
    os._exit(1)


def found(folder, name):
  """The files or folders of this name of all runs in a folder, or of the run that it is."""
  return [path for depth in ('', '*/', '*/*/') for path in folder.glob(depth + name)]


def rows(folder):
  return sum(max(p.read_bytes().count(b'\n') - 1, 0) for p in found(folder, 'metrics.csv'))


def ends_before_a_moment(pid, folder, rng):
  """Waits for a random moment: any, some rows further on, or while a checkpoint is written.

  Returns whether the process had come to its end before.
  """
  kind = rng.choice(('time', 'rows', 'rows', 'checkpoint', 'checkpoint'))
  deadline = time.monotonic() + (rng.uniform(0, 3) if kind == 'time' else 60)
  wanted, nth = rows(folder) + rng.randint(1, 6), rng.randint(1, 3)
  was_there = False
  while time.monotonic() < deadline:
    if os.waitpid(pid, os.WNOHANG)[0] == pid:
      return True
    if kind == 'rows' and rows(folder) >= wanted:
      break
    is_there = bool(found(folder, 'checkpoints/.new'))
    nth -= is_there and not was_there
    was_there = is_there
    if kind == 'checkpoint' and nth == 0:
      break
    time.sleep(0 if kind == 'checkpoint' else 0.002)
  time.sleep(rng.choice((0, rng.uniform(0, 0.02), rng.uniform(0, 0.1))))
  return False


def check_end(status, folder):
  if status:
    sys.exit(f'{folder} failed:\n{pathlib.Path(f"{folder}.log").read_text()}')


def main(folder, num_kills, seed, binary, *flags):
  folder, rng = pathlib.Path(folder), random.Random(int(seed))
  whole = folder / 'whole'
  check_end(os.waitpid(start(whole, binary, flags), 0)[1], whole)
  seen, number = [], 0
  while len(seen) < int(num_kills):
    killed = folder / f'killed-{number}'
    pid = start(killed, binary, flags)
    if ends_before_a_moment(pid, killed, rng):
      number += 1
      continue
    os.kill(pid, signal.SIGKILL)  # Not reaped, so the id is still the child's.
    os.waitpid(pid, 0)
    seen.append(rows(killed))
  # Also sees to it that a run which ended by itself ended well.
  for i in range(number + 1):
    killed = folder / f'killed-{i}'
    check_end(os.waitpid(start(killed, binary, flags), 0)[1], killed)
  print(seen)


if __name__ == '__main__':
  main(*sys.argv[1:])
