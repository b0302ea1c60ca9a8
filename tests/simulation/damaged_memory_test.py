"""Client memory on disk whose pages are damaged between two starts of a run."""

import pathlib
import shutil

import numpy as np
import pytest

from tests.client_state import damages
from tff_lowrank import client_state
from tff_lowrank.simulation import checkpoint

CLIENTS = [f'client_{i}' for i in range(200)]


class Run:
  """A run whose clients 20r to 20r + 59 remember round r, in `size` numbers."""

  def __init__(self, folder: pathlib.Path, size: int):
    self.initial = np.zeros(size, np.float32)
    self.store = client_state.LmdbStore(self.initial, folder / 'client_memory', ram_cap_bytes=0)
    self.checkpoints = checkpoint.Checkpoints(folder / 'checkpoints', {}, {})

  def go_on(self, last: int) -> int:
    """Restores and goes on to the round `last`, with a checkpoint every 2; whence it started."""
    restored = self.checkpoints.restore([np.int64(0)], self.store)
    first = 0 if restored is None else restored.round_num
    for r in range(first + 1, last + 1):
      ids = [CLIENTS[i % 200] for i in range(20 * r, 20 * r + 60)]
      before = self.store.read(ids)
      self.store.stage(ids, [state + r for state in before])
      self.store.commit(r)
      if r % 2 == 0:
        self.checkpoints.save(r, [np.int64(r)], self.store)
    return first

  def memory(self) -> list[np.ndarray]:
    return self.store.read(CLIENTS)


def start(folder, size):
  run = Run(folder, size)
  try:
    run.go_on(12)
  finally:
    run.store.close()


def try_damages(folder, size, count):
  start(folder / 'run', size)
  shutil.copytree(folder / 'run', folder / 'whole')
  whole = Run(folder / 'whole', size)
  whole.go_on(16)
  expected = whole.memory()
  whole.store.close()

  def go_on():
    shutil.rmtree(folder / 'copy', ignore_errors=True)
    shutil.copytree(folder / 'run', folder / 'copy')
    try:
      run = Run(folder / 'copy', size)
      first = run.go_on(16)
      found = run.memory()
    except (ValueError, OSError) as e:
      return 'refused' if str(folder / 'copy') in str(e) else f'refused: {e}'
    if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
      return 'silently wrong'
    return 'right' if first == 12 else 'right, from the checkpoint before'

  return damages.outcomes(folder / 'run/client_memory/data.mdb', count, size, go_on)


@pytest.mark.parametrize(
  'count', [30, pytest.param(500, marks=pytest.mark.slow)], ids=['few', 'many']
)
@pytest.mark.parametrize('size', [3, 1500], ids=['in_pages', 'on_own_pages'])
def test_damaged_pages_are_refused_or_do_no_harm(tmp_path, size, count):
  found = try_damages(tmp_path, size, count)
  print(dict(found))
  assert set(found) <= {'right', 'right, from the checkpoint before', 'refused'}
  assert found['refused'] > count / 4
