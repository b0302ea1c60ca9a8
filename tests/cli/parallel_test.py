"""Real processes, which only pretend to train."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time

import psutil
import pytest

from tff_lowrank.cli import parallel
from tff_lowrank.simulation import stopping

PYTHON = sys.executable

# What it is told to do is its first argument after `-m tff_lowrank.cli.main train`.
PRETENDER = """#!{python}
import pathlib, signal, sys, time
how, folder = sys.argv[4], pathlib.Path(sys.argv[-1].removeprefix('--output_dir='))

def save(number, frame):
  (folder / 'saved').write_text(str(number))
  sys.exit(143)

signal.signal(signal.SIGTERM, save)
print('pretending', *sys.argv[1:5])
with open(folder.parent / 'events', 'a') as events:
  print('start', file=events, flush=True)
  if how == '--fail':
    print('It is broken.', file=sys.stderr)
    sys.exit(3)
  time.sleep(60 if how == '--hang' else 0.3)
  print('end', file=events, flush=True)
(folder / 'done').touch()
"""


@pytest.fixture(autouse=True)
def pretender(tmp_path, monkeypatch):
  path = tmp_path / 'pretender'
  path.write_text(PRETENDER.format(python=sys.executable))
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  monkeypatch.setattr(sys, 'executable', str(path))


def wait_until(condition):
  deadline = time.monotonic() + 30
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.02)


def test_at_most_so_many_at_a_time(tmp_path, capsys):
  commands = {tmp_path / name: ['--work', '--rounds=3'] for name in 'abcde'}
  assert parallel.train_all(commands, jobs=2) == []
  running, most = 0, 0
  for event in (tmp_path / 'events').read_text().split():
    running += 1 if event == 'start' else -1
    most = max(most, running)
  assert most == 2 and running == 0
  assert all((folder / 'done').exists() for folder in commands)
  # The module, the command and the flags, and the output in the log.
  log = (tmp_path / 'a' / parallel.LOG).read_text()
  assert log == 'pretending -m tff_lowrank.cli.main train --work\n'
  assert 'a is finished' in capsys.readouterr().out


def test_a_failure_is_told_and_the_others_finish(tmp_path, capsys):
  commands = {tmp_path / 'a': ['--fail'], tmp_path / 'b': ['--work'], tmp_path / 'c': ['--work']}
  assert parallel.train_all(commands, jobs=1) == [tmp_path / 'a']
  assert (tmp_path / 'b' / 'done').exists() and (tmp_path / 'c' / 'done').exists()
  told = capsys.readouterr().err
  assert 'a failed with status 3' in told
  assert str(tmp_path / 'a' / parallel.LOG) in told and 'It is broken.' in told


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_each_save(tmp_path, number):
  def interrupt():
    events = tmp_path / 'events'
    wait_until(lambda: events.exists() and events.read_text().count('start') == 2)
    os.kill(os.getpid(), number)

  commands = {tmp_path / name: ['--hang'] for name in 'abc'}
  thread = threading.Thread(target=interrupt)
  thread.start()
  start = time.monotonic()
  with pytest.raises(stopping.Stopped) as stopped:
    parallel.train_all(commands, jobs=2)
  thread.join()
  assert stopped.value.exit_status == 128 + number
  assert time.monotonic() - start < 40
  for name in 'ab':
    assert (tmp_path / name / 'saved').read_text() == str(int(signal.SIGTERM))
  assert not (tmp_path / 'c').exists()


def test_nothing_is_left_running_after_a_kill(tmp_path):
  # A new process: a fork of this one, which has TensorFlow's threads, may crash.
  program = (
    'import pathlib, sys; from tff_lowrank.cli import parallel; sys.executable = sys.argv[1]; '
    "parallel.train_all({pathlib.Path(f): ['--hang'] for f in sys.argv[2:]}, jobs=2)"
  )
  arguments = [sys.executable, str(tmp_path / 'a'), str(tmp_path / 'b')]
  parent = subprocess.Popen([PYTHON, '-c', program, *arguments])
  events = tmp_path / 'events'
  wait_until(lambda: events.exists() and events.read_text().count('start') == 2)
  children = psutil.Process(parent.pid).children()
  assert len(children) == 2
  parent.kill()
  parent.wait()
  assert psutil.wait_procs(children, timeout=10)[1] == []


def test_nothing_is_left_running_after_an_error(tmp_path, monkeypatch):
  started = []

  def fail(self):
    started.extend(self.running.values())
    raise RuntimeError('no more')

  monkeypatch.setattr(parallel._Pool, 'take_ended', fail)
  with pytest.raises(RuntimeError, match='no more'):
    parallel.train_all({tmp_path / 'a': ['--hang']}, jobs=1)
  assert [process.returncode for process in started] == [-signal.SIGKILL]
