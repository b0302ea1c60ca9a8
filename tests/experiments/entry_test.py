"""What the binaries say and how they exit, as a shell sees it."""

import gzip
import pathlib
import struct
import subprocess
import sys

from absl import app
from absl import flags
from absl.testing import flagsaver
import pytest

from experiments import entry
from experiments import train  # noqa: F401 (defines the flags)
from tff_lowrank.datasets import mnist
from tff_lowrank.simulation import stopping

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fail_with(error, *arguments):
  def main(argv):
    raise error

  with flagsaver.flagsaver():
    flags.FLAGS(['train', '--output_dir=x', *arguments])
    entry.guarded(main)(['train'])


@pytest.mark.parametrize(
  'error', [app.UsageError('--x: expected y.'), ValueError('expected y.'), OSError('expected y.')]
)
def test_what_the_user_can_mend_is_one_sentence(error, capsys):
  with pytest.raises(SystemExit) as ended:
    fail_with(error)
  assert ended.value.code == 2
  assert capsys.readouterr().err.splitlines() == [str(error), 'Pass --debug for the traceback.']


def test_debug_shows_the_error_itself():
  with pytest.raises(ValueError, match='expected y'):
    fail_with(ValueError('expected y.'), '--debug')


def test_bugs_are_not_hidden():
  with pytest.raises(ZeroDivisionError):
    fail_with(ZeroDivisionError())


@pytest.mark.parametrize(
  'error, status', [(stopping.Stopped(15, 'Stopped.'), 143), (KeyboardInterrupt(), 130)]
)
def test_interruptions_have_the_shell_s_status(error, status, capsys):
  with pytest.raises(SystemExit) as ended:
    fail_with(error)
  assert ended.value.code == status
  assert len(capsys.readouterr().err.splitlines()) == 1


def run(*arguments):
  return subprocess.run(
    [sys.executable, '-m', 'experiments.train', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip


def write_mnist(folder):
  """Twelve images, in the four files."""
  for name in mnist.FILES:
    rank = 3 if 'images' in name else 1
    shape = (12, 28, 28)[:rank]
    header = b'\0\0\x08' + bytes([rank]) + struct.pack(f'>{rank}I', *shape)
    size = 12 * 28 * 28 if rank == 3 else 12
    (folder / name).write_bytes(gzip.compress(header + bytes(size)))


def test_a_bad_flag_ends_with_2_and_no_traceback(tmp_path):
  done = run('--rounds=0', f'--output_dir={tmp_path / "run"}')
  assert done.returncode == 2
  assert '--rounds' in done.stderr and 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()


def test_a_truncated_data_file_ends_with_2_and_no_traceback(tmp_path):
  write_mnist(tmp_path)
  path = tmp_path / mnist.FILES[0]
  path.write_bytes(path.read_bytes()[:-9])
  done = run('--task=mnist', f'--data_dir={tmp_path}', f'--output_dir={tmp_path / "run"}')
  assert done.returncode == 2
  assert f'{path}: expected a whole gzip file' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('name', ['debug', 'checkpoint_every', 'keep_checkpoints'])
def test_flags_of_all_binaries(name):
  assert name in flags.FLAGS
