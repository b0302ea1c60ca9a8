"""What the binaries say and how they exit, as a shell sees it."""

import gzip
import os
import pathlib
import struct
import subprocess
import sys

from absl import app
from absl import flags
from absl.testing import flagsaver
import pytest

from tests.cli import binaries
from tff_lowrank import files
from tff_lowrank.cli import entry
from tff_lowrank.cli import train  # noqa: F401 (defines the flags)
from tff_lowrank.datasets import mnist
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import stopping

ROOT = pathlib.Path(__file__).resolve().parents[2]


def fail_with(error, *arguments):
  def main(argv):
    raise error

  with flagsaver.flagsaver():
    flags.FLAGS(['train', '--output_dir=x', *arguments])
    entry.guarded(main)(['train'])


@pytest.mark.parametrize(
  'error',
  [
    app.UsageError('--x: expected y.'),
    flags.IllegalFlagValueError('--x: expected y.'),
    files.FileError('run.json', 'a record', 'none'),
    manifest.DamagedError('x is damaged.'),
    manifest.MismatchError('x is of another run.'),
    OSError('expected y.'),
  ],
)
def test_what_the_user_can_mend_is_one_sentence(error, capsys):
  with pytest.raises(SystemExit) as ended:
    fail_with(error)
  assert ended.value.code == 2
  assert capsys.readouterr().err.splitlines() == [str(error), 'Pass --debug for the traceback.']


def test_debug_shows_the_error_itself():
  with pytest.raises(OSError, match='expected y'):
    fail_with(OSError('expected y.'), '--debug')


@pytest.mark.parametrize('error', [ZeroDivisionError, ValueError, TypeError, KeyError])
def test_bugs_are_not_hidden(error):
  with pytest.raises(error):
    fail_with(error('broken'))


def test_a_bug_has_its_traceback_and_status_1(tmp_path):
  bug = (
    'from tff_lowrank.cli import entry, train; from tff_lowrank.runs import runner; '
    'runner.build_task = lambda spec: int("x"); '
  )
  done = subprocess.run(
    [sys.executable, '-c', f'{bug}entry.run(train.main)', f'--output_dir={tmp_path}'],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  assert done.returncode == 1
  assert 'Traceback' in done.stderr and 'ValueError: invalid literal' in done.stderr


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
  assert f'{path}: expected a complete gzip file' in done.stderr
  assert 'Traceback' not in done.stderr


def no_text(path):
  path.write_bytes(b'--rounds=\xff\n')


def names_another(path):
  path.write_text(f'# More:\n--flagfile={path.parent / "inner"}\n')
  no_text(path.parent / 'inner')


@pytest.mark.parametrize(
  'make, name, found',
  [
    (no_text, 'outer', "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
    (names_another, 'inner', "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
    (lambda path: None, 'outer', 'No such file or directory.'),
    (lambda path: path.mkdir(), 'outer', 'a folder.'),
    (lambda path: path.symlink_to(path), 'outer', 'Too many levels of symbolic links.'),
  ],
)
@pytest.mark.parametrize('form', ['--flagfile={}', '-flagfile {}'])
def test_a_file_of_flags_that_cannot_be_read_is_named(tmp_path, capsys, make, name, found, form):
  make(tmp_path / 'outer')
  arguments = form.format(tmp_path / 'outer').split()
  assert binaries.status('train', *arguments) == entry.USAGE
  said = capsys.readouterr().err.splitlines()
  assert said[0].startswith(
    f'{tmp_path / name}: expected a file with one flag per line, in UTF-8, found {found}'
  )
  assert said[1:] == ['Pass --help for all flags.']


def test_a_file_of_flags_may_be_a_pipe():
  reading, writing = os.pipe()  # As of `--flagfile=<(...)` in a shell.
  os.write(writing, b'--seed=7\n')
  os.close(writing)
  with binaries.no_flags_set():
    entry.parse(['train', f'--flagfile=/dev/fd/{reading}', '--output_dir=x'])
    assert flags.FLAGS.seed == 7
  os.close(reading)


@pytest.mark.parametrize(
  'preset, sentence',
  [
    ('demo', '--methods is a flag of tff-lowrank compare, not of train.'),
    pytest.param(
      'gradient_space_mnist',
      '--setting is a flag of tff-lowrank gradient-space, not of train.',
      marks=pytest.mark.slow,
    ),
  ],
)
def test_presets_of_other_binaries(preset, sentence):
  done = run(f'--flagfile=experiments/presets/{preset}.flags', '--output_dir=x')
  assert done.returncode == entry.USAGE
  assert done.stderr == f'{sentence}\nPass --help for all flags.\n'


LOGS = """
import logging
from absl import logging as absl_logging
from tff_lowrank.cli import entry
import tensorflow as tf

def main(argv):
  tf.get_logger().warning('Of TensorFlow.')
  absl_logging.info('Of a library.')
  logging.warning('%s is damaged.', 'x')

logging.basicConfig()  # As a library may do.
entry.run_without_tff(main)
"""


def test_warnings_of_ours_are_shown_once_and_logs_of_libraries_are_not():
  done = subprocess.run(
    [sys.executable, '-c', LOGS], cwd=ROOT, capture_output=True, text=True, timeout=300,
    env={n: v for n, v in os.environ.items() if n != 'TF_CPP_MIN_LOG_LEVEL'},
  )  # fmt: skip
  assert done.returncode == 0 and done.stderr == 'WARNING: x is damaged.\n'
