"""Set-up for all tests."""

from collections.abc import Callable, Iterator
import os
import pathlib
import shutil
import subprocess
import sys

# Before TensorFlow starts: tests compare numbers with those of the binaries, which set this.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import hypothesis
import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests import covering
from tff_lowrank import execution

# How long an example takes says nothing on a busy machine.
hypothesis.settings.register_profile('tests', deadline=None)
hypothesis.settings.load_profile('tests')

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / 'shared' / 'data'


# Folders and files with long tests. They start first, so that no long file is left for one process
# at the end while the other has nothing to do.
LONG = ('cli', 'learning', 'wheel_test.py', 'docs_test.py', 'readme_test.py', 'execution',
        'methods', 'aggregators', 'runs', 'contract_test.py', 'layers', 'client_work')  # fmt: skip


def _place(item: pytest.Item) -> int:
  first = item.nodeid.removeprefix('tests/').partition('::')[0].partition('/')[0]
  return LONG.index(first) if first in LONG else len(LONG)


@pytest.hookimpl(tryfirst=True)  # Before tests are left out by their markers.
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  covering.mark(items)
  items.sort(key=_place)


@pytest.fixture(autouse=True, scope='session')
def local_context() -> None:
  """Tests run on the local context unless they ask for another."""
  execution.set_local_context()


@pytest.fixture(autouse=True, scope='session')
def shared_runs(local_context) -> Iterator[None]:
  """Runs share what they would build alike, where there are tests of runs."""
  if 'tff_lowrank.runs' not in sys.modules:
    yield
    return
  from tests.runs import shared

  with shared.installed():
    yield


@pytest.fixture(autouse=True)
def same_weights_in_every_run() -> None:
  """Layers draw their first weights from TensorFlow's global generator, whatever ran before."""
  tf.keras.utils.set_random_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
  return np.random.default_rng(0)


@pytest.fixture
def mount(tmp_path) -> Iterator[Callable[[str], pathlib.Path]]:
  """A function from mount's options to a small file system in memory, which only root may have."""
  mounted = []

  def mount_one(options: str) -> pathlib.Path:
    folder = tmp_path / f'disk{len(mounted)}'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(folder)]
    if os.geteuid() or not shutil.which('mount') or subprocess.run(command, check=False).returncode:
      pytest.skip('only root can mount a small file system')
    mounted.append(folder)
    return folder

  yield mount_one
  for folder in mounted:
    subprocess.run(['umount', '--lazy', str(folder)], check=True)


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """A folder with real data sets, which not every machine has."""
  if not SHARED_DATA.is_dir():
    pytest.skip(f'real data sets are not at {SHARED_DATA}')
  return SHARED_DATA


def pytest_sessionfinish() -> None:
  """Ends TFF's worker processes, which outlive their parent and hold its output open."""
  for child in psutil.Process().children():
    if child.name() == 'worker_binary':
      child.terminate()
      child.wait(10)
