import os
import subprocess
import sys

import numpy as np
import pytest

from tff_lowrank import client_state
from tff_lowrank import files

LIMITED = """
import resource, sys, numpy as np, psutil
from tff_lowrank import client_state
size = psutil.Process().memory_info().vms + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (size, size))
example = np.zeros(1 << 18, np.float32)
for first in (1, 5):
  store = client_state.LmdbStore(example, sys.argv[1], ram_cap_bytes=0)
  for r in range(first, first + 4):
    store.stage([f'{r}/{i}' for i in range(20)], [example + i for i in range(20)])
    store.commit(r)
  for r in range(1, first + 4):
    assert [state[-1] for state in store.read([f'{r}/{i}' for i in range(20)])] == [*range(20)]
  store.close()
"""


@pytest.mark.parametrize('free_mb, is_enough', [(640, True), (200, False), (40, False)])
def test_a_limited_address_space_has_a_map_that_grows(tmp_path, free_mb, is_enough):
  """160 MB of memory, in the end."""
  done = subprocess.run(
    [sys.executable, '-c', LIMITED, tmp_path, str(free_mb)],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode == (0 if is_enough else 1), done.stderr
  assert is_enough or ('OSError: ' in done.stderr and '(ulimit -v)' in done.stderr)


def test_a_record_may_be_larger_than_a_step_of_the_map(tmp_path, monkeypatch):
  monkeypatch.setattr('tff_lowrank.client_state.lmdb_file._MAP_STEP_BYTES', 1 << 18)
  example = np.zeros(1 << 18, np.float32)
  store = client_state.LmdbStore(example, tmp_path)
  store.stage(['a'], [example + 1])
  store.commit(1)
  assert store.read(['a'])[0][-1] == 1
  store.close()


def test_a_check_that_is_killed_is_one_sentence(tmp_path, monkeypatch):
  client_state.LmdbStore(np.zeros(3), tmp_path).close()
  monkeypatch.setattr('tff_lowrank.client_state.lmdb_file._CHECK', 'import os; os.abort()')
  with pytest.raises(files.FileError, match='found that reading it ends with SIGABRT. Restore'):
    client_state.LmdbStore(np.zeros(3), tmp_path)


def to_a_device(path):
  path.symlink_to('/dev/null')


@pytest.mark.parametrize(
  'make, kind', [(os.mkfifo, 'a FIFO'), (os.mkdir, 'a folder'), (to_a_device, 'a device')]
)
def test_only_a_regular_file_is_taken(tmp_path, make, kind):
  path = tmp_path / 'data.mdb'
  make(path)
  with pytest.raises(files.FileError, match=f'data.mdb: expected client state, found {kind}'):
    client_state.LmdbStore(np.zeros(3), tmp_path)
  assert os.path.lexists(path)
