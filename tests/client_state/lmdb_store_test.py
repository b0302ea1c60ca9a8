import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from hypothesis import settings
from hypothesis import stateful
from hypothesis import strategies as st
import numpy as np
import psutil
import pytest

from tff_lowrank import client_state
from tff_lowrank import files

INITIAL = (np.zeros(3, np.float32), np.int32(-1))
AWKWARD = ['', '../../etc/passwd', '/', 'a\0b', 'x' * 5000, '\ud800', 'ä', 'A', 'a']


def memory(number):
  return (np.full(3, number, np.float32), np.int32(number))


def numbers(store, ids):
  return [int(state[1]) for state in store.read(ids)]


class StoreMachine(stateful.RuleBasedStateMachine):
  """Every store against dictionaries, one for each round it must be able to go back to."""

  ids = st.lists(st.sampled_from(AWKWARD + ['b', 'c']), max_size=4)

  def __init__(self):
    super().__init__()
    self.folder = tempfile.TemporaryDirectory()
    self.path = pathlib.Path(self.folder.name) / 'store'
    self.open()
    self.round, self.now, self.staged, self.kept = None, {}, {}, {}

  def open(self):
    self.store = client_state.LmdbStore(INITIAL, self.path, ram_cap_bytes=100)

  @stateful.rule(ids=ids, number=st.integers(0, 99))
  def stage(self, ids, number):
    self.store.stage(ids, [memory(number + i) for i in range(len(ids))])
    self.staged |= {client: number + i for i, client in enumerate(ids)}

  @stateful.rule(more=st.integers(1, 3))
  def commit(self, more):
    self.round = more if self.round is None else self.round + more
    self.store.commit(self.round)
    self.now = self.now | self.staged
    self.staged = {}

  @stateful.rule(data=st.data())
  def keep(self, data):
    possible = sorted(self.kept)
    chosen = data.draw(st.sets(st.sampled_from(possible))) if possible else set()
    self.kept = {r: self.kept[r] for r in chosen}
    if self.round is not None:
      self.kept[self.round] = dict(self.now)
    self.store.keep(list(self.kept))

  @stateful.rule(data=st.data())
  def restore(self, data):
    self.round = data.draw(st.sampled_from([None, *self.kept]))
    self.store.restore(self.round)
    self.now = dict(self.kept[self.round]) if self.round is not None else {}
    last = -1 if self.round is None else self.round
    self.kept = {r: seen for r, seen in self.kept.items() if r <= last}
    self.staged = {}

  @stateful.rule()
  def reopen(self):
    self.store.close()
    self.open()
    self.staged = {}

  @stateful.invariant()
  def sees_what_was_committed(self):
    ids = [*AWKWARD, 'b', 'c', 'never']
    assert numbers(self.store, ids) == [self.now.get(client, -1) for client in ids]
    assert self.store.committed_round == self.round
    assert len(self.store) == len(self.now)

  def teardown(self):
    self.store.close()
    self.folder.cleanup()


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestStore = StoreMachine.TestCase


@pytest.fixture
def store(tmp_path):
  opened = client_state.LmdbStore(INITIAL, tmp_path / 'store')
  yield opened
  opened.close()


def test_readers_never_see_a_half_round(store):
  ids = [f'c{i}' for i in range(50)]
  store.stage(ids, [memory(0)] * 50)
  store.commit(0)
  seen, done = [], threading.Event()

  def read():
    while not done.is_set():
      seen.append(set(numbers(store, ids)))

  reader = threading.Thread(target=read)
  reader.start()
  for r in range(1, 15):
    for client in ids:
      store.stage([client], [memory(r)])
    store.commit(r)
  done.set()
  reader.join()
  assert len(seen) > 3 and all(len(numbers) == 1 for numbers in seen)


def test_superseded_memory_is_removed(store):
  def records():
    with store._file.reading() as txn:
      return txn.stat(store._records)['entries']

  for r in range(1, 11):
    store.stage(['a', 'b'], [memory(r)] * 2)
    store.commit(r)
    if r % 4 == 0:
      store.keep([r])
  assert records() == 4  # Round 10's, and those of round 8, which was kept.
  store.keep([10])
  assert records() == 2


def test_refuses_what_does_not_fit(store, tmp_path):
  with pytest.raises(ValueError, match='Expected 2 states, found 1'):
    store.stage(['a', 'b'], [memory(1)])
  store.commit(3)
  with pytest.raises(ValueError, match='Expected a round after 3, found 3'):
    store.commit(3)
  with pytest.raises(ValueError, match=r'state of round 2, found rounds \[3\]'):
    store.restore(2)
  store.close()
  with pytest.raises(ValueError, match='Use another folder'):
    client_state.LmdbStore(INITIAL[0], tmp_path / 'store')


def test_unwritable_folder_is_named(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file'):
    client_state.LmdbStore(INITIAL, tmp_path / 'file')


def test_full_disk_is_an_error_and_loses_no_round(mount):
  path = mount('size=1m') / 'store'
  example = np.zeros(5000, np.float32)
  full = client_state.LmdbStore(example, path)
  full.stage(['a'], [example + 1])
  full.commit(1)
  with pytest.raises(OSError, match='could not be read or written'):
    full.stage([f'c{i}' for i in range(100)], [example] * 100)
    full.commit(2)
  full.close()
  again = client_state.LmdbStore(example, path)
  assert again.committed_round == 1 and len(again) == 1
  np.testing.assert_array_equal(again.read(['a'])[0], example + 1)
  again.close()


def test_a_file_that_was_cut_off_is_told(store, tmp_path):
  for r in range(1, 4):
    store.stage([f'c{i}' for i in range(100 * r)], [memory(r)] * 100 * r)
    store.commit(r)
  store.close()
  path = tmp_path / 'store' / 'data.mdb'
  whole = path.read_bytes()
  for length in range(len(whole) - 4096, 8191, -8192):
    path.write_bytes(whole[:length])
    with pytest.raises(
      files.FileError, match=f'undamaged client state, found {length} bytes instead'
    ):
      client_state.LmdbStore(INITIAL, tmp_path / 'store')
  path.write_bytes(whole)
  again = client_state.LmdbStore(INITIAL, tmp_path / 'store')
  assert set(numbers(again, [f'c{i}' for i in range(300)])) == {3}
  again.close()


OPEN = """
import sys, numpy as np
from tff_lowrank import client_state
try:
  client_state.LmdbStore((np.zeros(3, np.float32), np.int32(-1)), sys.argv[1])
except BlockingIOError as e:
  print(e)
"""


def test_one_store_at_a_time_has_the_folder_open(store, tmp_path):
  message = f'store: client state is in use by process {os.getpid()}. Wait for it'
  with pytest.raises(BlockingIOError, match=message):
    client_state.LmdbStore(INITIAL, tmp_path / 'store')
  other = subprocess.run(
    [sys.executable, '-c', OPEN, tmp_path / 'store'], capture_output=True, text=True, check=True
  )
  assert message in other.stdout
  store.close()
  client_state.LmdbStore(INITIAL, tmp_path / 'store').close()


def test_a_store_with_memory_keeps_its_identity(tmp_path):
  for identity in ('a', 'b'):  # The first has no memory yet.
    client_state.LmdbStore(INITIAL, tmp_path, identity=identity).close()
  store = client_state.LmdbStore(INITIAL, tmp_path, identity='c')
  store.stage(['x'], [memory(1)])
  store.commit(1)
  store.close()
  with pytest.raises(files.FileError, match='expected the client state of this run, found that'):
    client_state.LmdbStore(INITIAL, tmp_path, identity='b')
  for identity in ('c', None):
    again = client_state.LmdbStore(INITIAL, tmp_path, identity=identity)
    assert numbers(again, ['x']) == [1]
    again.close()


def test_client_ids_name_no_files(store, tmp_path):
  store.stage(AWKWARD, [memory(1)] * len(AWKWARD))
  store.commit(1)
  found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')}
  assert found == {'store', 'store/data.mdb', 'store/store.lock'}


@pytest.mark.parametrize('free', [0, 4, 8, 12, 16, 24, 40])
def test_a_disk_full_from_the_start_is_an_error_and_room_mends_it(mount, free):
  disk = mount('size=1m')
  (disk / 'ballast').write_bytes(bytes((1 << 20) - (free << 10)))

  def use():
    store = client_state.LmdbStore(INITIAL, disk / 'store')
    try:
      store.stage(['a'], [memory(7)])
      store.commit(1)
      return numbers(store, ['a'])
    finally:
      store.close()

  with pytest.raises(OSError, match='client state could not be'):
    use()
  (disk / 'ballast').unlink()
  assert use() == [7]


def population(path, num_clients, touched, size, cap):
  """Seconds per client of writing and reading, growth in resident bytes, and disk in bytes."""
  example = np.zeros(size, np.float32)
  rng = np.random.default_rng(0)
  ids = [f'client_{i}' for i in range(num_clients)]
  chosen = {ids[i]: np.float32(i + 1) for i in rng.choice(num_clients, touched, replace=False)}
  own = psutil.Process()
  before = own.memory_info()
  store = client_state.LmdbStore(example, path, ram_cap_bytes=cap)
  start, anonymous = time.monotonic(), 0
  for r, (client, number) in enumerate(chosen.items()):
    store.stage([client], [example + number])
    if r % 50 == 49:
      store.commit(r)
    info = own.memory_info()
    anonymous = max(anonymous, info.rss - info.shared - before.rss + before.shared)
  write = (time.monotonic() - start) / touched
  start = time.monotonic()
  for client, number in chosen.items():
    assert store.read([client])[0][-1] == number
    info = own.memory_info()
    anonymous = max(anonymous, info.rss - info.shared - before.rss + before.shared)
  read = (time.monotonic() - start) / touched
  assert len(store) == touched
  seen = {client for client in ids[:500] if store.read([client])[0] is not example}
  assert seen == set(chosen).intersection(ids[:500])
  store.close()
  disk = sum(file.stat().st_blocks * 512 for file in pathlib.Path(path).rglob('*'))
  return write, read, anonymous, disk


def test_population_costs_what_is_touched(tmp_path):
  _, _, _, disk = population(tmp_path, 1000, 100, 2000, 1 << 17)
  assert disk < 1.5 * 100 * 8000 + (1 << 18)


@pytest.mark.slow
def test_large_population(tmp_path):
  cap = 256 << 20
  write, read, memory_bytes, disk = population(tmp_path, 100_000, 1000, 431_080, cap)
  print(
    f'{write * 1e3:.1f} ms a write, {read * 1e3:.1f} ms a read, {memory_bytes / 1e6:.0f} MB RAM, '
    f'{disk / 1e9:.2f} GB disk'
  )
  assert memory_bytes < 1.5 * cap
  assert disk < 1.1 * 1000 * 431_080 * 4
