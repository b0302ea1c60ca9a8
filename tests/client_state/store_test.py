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
