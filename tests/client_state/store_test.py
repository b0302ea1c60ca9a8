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


def test_goes_back_to_what_was_saved():
  initial = (np.zeros(2, np.float32), ())
  store = client_state.MemoryStore(initial)
  assert store.save() == ([], [])
  store.stage(['a', '../b'], [(np.ones(2, np.float32), ()), (np.full(2, 2, np.float32), ())])
  store.commit(4)
  saved = store.save()
  assert saved.client_ids == ['a', '../b'] and saved.leaves[0].tolist() == [[1, 1], [2, 2]]
  store.stage(['a', 'c'], [initial, initial])
  store.commit(5)
  store.stage(['a'], [initial])
  store.restore(4, saved)
  store.commit(5)
  assert [state[0].tolist() for state in store.read(['a', '../b', 'c'])] == [[1, 1], [2, 2], [0, 0]]
  assert len(store) == 2
  store.restore(None, None)
  assert (len(store), store.committed_round) == (0, None)
