import numpy as np
import pytest
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_state
from tff_lowrank import learning
from tff_lowrank.simulation import rounds

sgd = tff.learning.optimizers.build_sgdm


@pytest.fixture
def process(rng):
  return learning.build_lbgm_fed_avg(linear.build_model(rng), sgd(0.1), threshold=1.0)


@pytest.fixture
def data(rng):
  return {c: linear.examples(rng, 5) for c in 'abc'}


def run(process, data, cohorts, numbers, state=None, store=None, fail_in=None):
  seen = []
  store = client_state.MemoryStore(process.initialize_client()) if store is None else store

  def client_dataset(client, number):
    if number == fail_in and client == 'b':
      raise RuntimeError('disk gone')
    return linear.dataset(*data[client], batch_size=5)

  state = rounds.run_rounds(
    process, state or process.initialize(), store, lambda r: cohorts[r], client_dataset, numbers,
    seen.append,
  )  # fmt: skip
  return state, store, seen


def test_memory_follows_the_clients(process, data):
  cohorts = {1: ['a', 'b'], 2: ['c', 'a'], 3: ['b', 'c']}
  _, store, seen = run(process, data, cohorts, range(1, 4))
  assert [done.number for done in seen] == [1, 2, 3]
  assert len(store) == 3 and store.committed_round == 3
  scalars = [[int(r['uplink']['scalar']) // 32 for r in done.reports] for done in seen]
  # Whoever is seen for the first time sends both tensors in full; at threshold 1, scalars after.
  assert scalars == [[0, 0], [0, 2], [2, 2]]
  assert all(done.seconds > 0 for done in seen)


def test_rounds_in_two_parts_are_the_rounds_in_one(process, data):
  cohorts = {r: list('abc')[: 2 + r % 2] for r in range(1, 7)}
  whole, _, _ = run(process, data, cohorts, range(1, 7))
  state, store, _ = run(process, data, cohorts, range(1, 4))
  state, _, _ = run(process, data, cohorts, range(4, 7), state, store)
  for a, b in zip(
    process.get_model_weights(whole).trainable, process.get_model_weights(state).trainable,
    strict=True,
  ):  # fmt: skip
    np.testing.assert_array_equal(a, b)


def test_a_failing_round_leaves_memory_as_it_was(process, data):
  cohorts = {1: ['a'], 2: ['c', 'b']}
  store = client_state.MemoryStore(process.initialize_client())
  with pytest.raises(RuntimeError, match='disk gone'):
    run(process, data, cohorts, range(1, 3), store=store, fail_in=2)
  assert store.committed_round == 1 and len(store) == 1
