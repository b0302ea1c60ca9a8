import io
import tracemalloc

import numpy as np
import pytest

from tff_lowrank import client_state


def test_staged_memory_is_seen_after_the_commit_only():
  store = client_state.MemoryStore('new')
  assert store.read(['a', 'b']) == ['new', 'new']
  store.stage(['a'], [1])
  assert store.read(['a']) == ['new']
  store.commit(1)
  assert store.read(['b', 'a']) == ['new', 1]
  assert (store.committed_round, len(store)) == (1, 1)


def test_last_staging_wins_and_nothing_is_left_over():
  store = client_state.MemoryStore(None)
  store.stage(['a', 'b'], [1, 2])
  store.stage(['a'], [3])
  store.commit(5)
  store.commit(6)
  assert store.read(['a', 'b']) == [3, 2]


def test_refuses_what_does_not_fit():
  store = client_state.MemoryStore(None)
  with pytest.raises(ValueError, match='Expected 2 states, found 1'):
    store.stage(['a', 'b'], [1])
  store.commit(3)
  with pytest.raises(ValueError, match='Expected a round after 3, found 3'):
    store.commit(3)


def saved_by(store):
  file = io.BytesIO()
  store.save(file.write)
  file.seek(0)
  return file


def test_goes_back_to_what_was_saved():
  initial = (np.zeros(2, np.float32), ())
  store = client_state.MemoryStore(initial)
  store.stage(['a', '../b'], [(np.ones(2, np.float32), ()), (np.full(2, 2, np.float32), ())])
  store.commit(4)
  saved = saved_by(store)
  store.stage(['a', 'c'], [initial, initial])
  store.commit(5)
  store.stage(['a'], [initial])
  store.restore(4, saved)
  store.commit(5)
  assert [state[0].tolist() for state in store.read(['a', '../b', 'c'])] == [[1, 1], [2, 2], [0, 0]]
  assert len(store) == 2
  store.restore(None)
  assert (len(store), store.committed_round) == (0, None)
  store.restore(0, saved_by(store))
  assert (len(store), store.committed_round) == (0, 0)


def test_what_cannot_be_restored_is_refused_and_changes_nothing():
  store = client_state.MemoryStore(np.zeros(2, np.float32))
  store.stage(['a', '\ud800'], [np.ones(2, np.float32), np.full(2, 2, np.float32)])
  store.commit(1)
  whole = saved_by(store).getvalue()
  store.check(1, io.BytesIO(whole))
  for i in range(len(whole)):
    damaged = whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :]
    with pytest.raises(ValueError):
      store.restore(1, io.BytesIO(damaged))
  with pytest.raises(ValueError, match='cut off'):
    store.restore(1, io.BytesIO(whole[:-1]))
  assert store.read(['a'])[0].tolist() == [1, 1]
  with pytest.raises(ValueError, match='Expected client state of .*int32.* found .*float32'):
    client_state.MemoryStore(np.zeros(2, np.int32)).check(1, io.BytesIO(whole))


def test_saving_copies_one_client_at_a_time():
  example = np.zeros(1 << 18, np.float32)
  store = client_state.MemoryStore(example)
  store.stage([f'c{i}' for i in range(32)], [example + i for i in range(32)])
  store.commit(1)
  tracemalloc.start()
  store.save(lambda piece: None)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 4.5 * example.nbytes
