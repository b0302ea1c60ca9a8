"""Standard streams that are closed, full, or not read."""

import json
import pathlib
import shlex
import subprocess
import sys

import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank.cli import entry

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAST = ('--task=digits', '--rounds=2', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64')  # fmt: skip


def shell(binary, rest, *arguments):
  """Runs a binary in a shell, with `rest` after it; returns status, output and errors."""
  command = shlex.join([sys.executable, '-m', f'experiments.{binary}', *FAST, *arguments])
  done = subprocess.run(
    ['bash', '-c', f'set -o pipefail; {command} {rest}'],
    cwd=ROOT, capture_output=True, text=True, timeout=300,
  )  # fmt: skip
  return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope='module')
def metrics(tmp_path_factory):
  """Of a run with all streams."""
  folder = tmp_path_factory.mktemp('whole')
  binaries.run('train', *FAST, f'--output_dir={folder}')
  return read_metrics(folder)


def read_metrics(folder):
  return pd.read_csv(folder / 'metrics.csv').drop(columns='round_seconds')


def slow(value):
  return pytest.param(value, marks=pytest.mark.slow)


@pytest.mark.parametrize('closed', ['<&- >&- 2>&-', *map(slow, ('<&-', '>&-', '2>&-'))])
def test_standard_streams_that_are_closed(tmp_path, metrics, closed):
  status, _, _ = shell('train', closed, f'--output_dir={tmp_path}')
  assert status == 0
  pd.testing.assert_frame_equal(read_metrics(tmp_path), metrics)
  assert (tmp_path / 'run.lock').read_text().isdecimal()
  assert shell('train', closed, f'--output_dir={tmp_path}', '--rounds=1')[0] == entry.USAGE


@pytest.mark.parametrize('rest', ['2>&1 | true', slow('2>&1 >/dev/null | head -c 1')])
def test_readers_that_do_not_wait_for_the_output(tmp_path, rest):
  status, _, _ = shell('compare', rest, '--methods=fed_avg', f'--output_dir={tmp_path}')
  assert status == 0
  assert len(pd.read_csv(tmp_path / 'table.csv')) == 1 and (tmp_path / 'report.html').exists()


def test_output_that_cannot_be_written(tmp_path):
  status, _, said = shell('train', '>/dev/full', f'--output_dir={tmp_path}')
  assert status == entry.USAGE
  assert said == (
    "[Errno 28] No space left on device: '/dev/fd/1'\nPass --debug for the traceback.\n"
  )
  assert json.loads((tmp_path / 'run.json').read_text())['status'] == 'completed'


@pytest.mark.parametrize('flag', ['--help', slow('--helpfull'), slow('--helpxml')])
def test_help_that_cannot_be_written(flag):
  status, _, said = shell('train', '>/dev/full', flag)
  assert status == entry.USAGE
  assert said == "[Errno 28] No space left on device: '/dev/fd/1'\n"
