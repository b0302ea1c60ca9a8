import collections
import gc

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_state
from tff_lowrank import execution
from tff_lowrank import files
from tff_lowrank import learning
from tff_lowrank.execution import ray_pool
from tff_lowrank.simulation import rounds

sgd = tff.learning.optimizers.build_sgdm


@pytest.fixture
def process(rng):
  return learning.build_lbgm_fed_avg(linear.build_model(rng), sgd(0.1), threshold=1.0)


@pytest.fixture
def data(rng):
  return {c: linear.examples(rng, 5) for c in 'abc'}


def run(
  process, data, cohorts, numbers, state=None, store=None, fails=lambda c, r: None, **options
):
  """Runs rounds over `data`; `fails(client, round)` gives a data set in place of a client's."""
  seen = []
  store = client_state.MemoryStore(process.initialize_client()) if store is None else store

  def client_dataset(client, number):
    return fails(client, number) or linear.dataset(*data[client], batch_size=5)

  state = rounds.run_rounds(
    process, state or process.initialize(), store, lambda r: cohorts[r], client_dataset, numbers,
    seen.append, **options,
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
  cohorts = {1: ['a']}  # There is no second round.
  store = client_state.MemoryStore(process.initialize_client())
  with pytest.raises(KeyError):
    run(process, data, cohorts, range(1, 3), store=store)
  assert store.committed_round == 1 and len(store) == 1


def test_data_that_never_ends_is_refused(process, data):
  endless = linear.dataset(*FIVE, batch_size=5).repeat()
  with pytest.raises(ValueError, match="client 'b' in round 1 never ends.*take"):
    run(process, data, {1: ['a', 'b']}, range(1, 2), fails=lambda c, r: endless if c == 'b' else 0)


FIVE = (np.ones([5, linear.FEATURES], np.float32), np.ones([5], np.int32))


def unreadable(client, number):
  """Data that fails at its second batch, after the first was trained on."""
  if (client, number) != ('b', 2):
    return None

  def examples():
    yield collections.OrderedDict(x=FIVE[0], y=FIVE[1])
    raise RuntimeError('disk gone')

  spec = linear.dataset(*FIVE, 5).element_spec
  return tf.data.Dataset.from_generator(examples, output_signature=spec)


def missing(client, number):
  if (client, number) == ('b', 2):
    raise FileNotFoundError('b.npz')


def empty(client, number):
  if (client, number) == ('b', 2):
    return linear.dataset(*FIVE, 5).take(0)


@pytest.mark.parametrize(
  'fails, reason',
  [
    (missing, 'its data failed: FileNotFoundError: b.npz'),
    (unreadable, 'its data failed'),
    (empty, rounds.NO_EXAMPLES),
  ],
)
def test_a_client_whose_data_fails_is_left_out(process, data, fails, reason):
  cohorts = {1: ['a', 'b'], 2: ['b', 'c'], 3: ['a', 'b']}
  with_it, store, seen = run(process, data, cohorts, range(1, 4), fails=fails)
  assert seen[1].client_ids == ['c']
  ((client, why),) = seen[1].absent
  assert client == 'b' and why.startswith(reason)
  assert len(seen[1].reports) == 1 and not seen[0].absent and not seen[2].absent
  # The same as if it had not been chosen.
  without, other, _ = run(process, data, cohorts | {2: ['c']}, range(1, 4))
  assert_equal(with_it, without)
  assert_equal(store.read(list('abc')), other.read(list('abc')))


def test_a_damaged_file_is_not_a_client_that_fails(process, data):
  def damaged(client, number):
    raise files.FileError('b.npz', 'a NumPy archive', 'text')

  with pytest.raises(files.FileError, match='b.npz: expected a NumPy archive, found text'):
    run(process, data, {1: ['a', 'b']}, range(1, 2), fails=damaged)


def assert_equal(a, b):
  for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_round_without_survivors_leaves_all_as_it_was(process, data):
  cohorts = {1: ['a', 'b'], 2: ['a', 'b'], 3: []}
  state, store, _ = run(process, data, cohorts, range(1, 2))
  after, store_after, seen = run(
    process, data, cohorts, range(2, 4), state, store, absence=lambda c, r: f'{c}{r}'
  )
  assert_equal(state, after)
  assert_equal(store.read(list('ab')), store_after.read(list('ab')))
  assert seen[0].absent == [('a', 'a2'), ('b', 'b2')]
  assert seen[0].metrics is None and not seen[0].client_ids and not seen[0].reports
  assert [done.number for done in seen] == [2, 3] and store.committed_round == 3


def test_a_fault_of_nobody_is_not_hidden(process, data):
  class Broken:
    def next(self, *arguments):
      raise RuntimeError('bug')

    initialize = process.initialize
    initialize_client = process.initialize_client

  with pytest.raises(RuntimeError, match='bug'):
    run(Broken(), data, {1: ['a']}, range(1, 2))


def test_a_client_twice_in_a_round_is_refused(process, data):
  with pytest.raises(ValueError, match="different client ids, found 'a' more than once"):
    run(process, data, {1: ['a', 'b', 'a']}, range(1, 2))


def test_stops_between_rounds(process, data):
  seen = []
  _, store, done = run(
    process,
    data,
    {1: ['a'], 2: ['b']},
    range(1, 3),
    should_stop=lambda: len(seen) or seen.append(1),
  )
  assert [d.number for d in done] == [1] and store.committed_round == 1


@pytest.mark.slow
def test_two_thousand_rounds_leave_nothing_behind(process, data, tmp_path):
  """No growth in memory, threads, file handles or functions, with client memory on disk."""
  own = psutil.Process()

  def measure():
    gc.collect()
    functions = sum(isinstance(o, tf.types.experimental.GenericFunction) for o in gc.get_objects())
    return own.num_threads(), own.num_fds(), functions, own.memory_info().rss

  store = client_state.LmdbStore(process.initialize_client(), tmp_path, ram_cap_bytes=1 << 20)
  cohorts = {r: ['abc'[r % 3], 'abc'[(r + 1) % 3]] for r in range(1, 2001)}
  state, seen = process.initialize(), []
  for first in range(1, 2001, 250):
    state, _, _ = run(process, data, cohorts, range(first, first + 250), state, store)
    seen.append(measure())
  store.close()
  print(seen)
  assert seen[-1][:3] == seen[1][:3]
  # TensorFlow 2.14 itself keeps 16 to 48 bytes of every eager tensor, some 20 KB a round here.
  assert seen[-1][3] < seen[1][3] + 1500 * 25e3


def open_examples(examples, empty=(), failing=(), damaged=()):
  """Clients' data sets, of which some are empty, or fail, or have a damaged file."""

  def open_client(client, number):
    if client in failing:
      raise OSError(f'{client} is gone')
    if client in damaged:
      raise files.FileError('x.h5', 'examples', 'none')
    dataset = linear.dataset(*examples[client], batch_size=5)
    return dataset.take(0) if client in empty else dataset

  return open_client


class TestDescribed:
  """Clients' data by description, on a context that opens them."""

  def rounds(self, process, data, num_steps=None, **troubles):
    source = execution.DataSource(open_examples, data, **troubles)
    cohorts = {r: list('abc') for r in (1, 2)}
    return run(
      process, data, cohorts, range(1, 3), fails=lambda c, r: source.describe(c, r, num_steps)
    )

  def test_they_give_what_the_data_sets_give(self, process, data):
    plain, plain_store, _ = run(process, data, {r: list('abc') for r in (1, 2)}, range(1, 3))
    state, store, seen = self.rounds(process, data)
    assert [done.client_ids for done in seen] == [list('abc')] * 2
    for a, b in ((plain, state), (plain_store.read('abc'), store.read('abc'))):
      for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
        np.testing.assert_array_equal(x, y)

  @pytest.mark.parametrize('client', list('abc'))
  def test_who_turns_out_to_have_no_examples_is_left_out(self, process, data, client):
    _, store, seen = self.rounds(process, data, empty=client)
    for done in seen:
      assert done.absent == [(client, rounds.NO_EXAMPLES)]
      assert done.client_ids == [c for c in 'abc' if c != client]
    assert len(store) == 2

  def test_who_is_known_to_have_none_is_not_opened(self, process, data):
    _, _, seen = self.rounds(process, data, num_steps=0, failing='abc')
    assert all(done.absent == [(c, rounds.NO_EXAMPLES) for c in 'abc'] for done in seen)

  def test_who_cannot_be_opened_is_left_out(self, process, data):
    _, _, seen = self.rounds(process, data, failing='b')
    for done in seen:
      assert done.client_ids == ['a', 'c']
      assert done.absent == [('b', 'its data failed: OSError: b is gone')]

  def test_a_damaged_file_is_raised(self, process, data):
    with pytest.raises(files.FileError, match='x.h5'):
      self.rounds(process, data, damaged='b')

  def test_what_has_cost_workers_is_not_opened_here(self, process, data):
    opened = []

    def recording():
      return lambda client, number: opened.append(client)

    class Losing(tff.framework.SyncContext):
      def invoke(self, comp, arg):
        raise ray_pool.WorkersLostError('4 workers were lost.')

    state, memory = process.initialize(), client_state.MemoryStore(process.initialize_client())
    source = execution.DataSource(recording)
    with tff.framework.get_context_stack().install(Losing()):
      with pytest.raises(ray_pool.WorkersLostError, match='4 workers'):
        run(process, data, {1: list('abc')}, range(1, 2), state, memory,
            fails=lambda c, r: source.describe(c, r))  # fmt: skip
    assert opened == []
