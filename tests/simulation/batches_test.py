import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.datasets import arrays
from tff_lowrank.simulation import batches


@pytest.fixture
def data():
  split = arrays.Split(np.arange(10)[:, None], np.arange(10, dtype=np.int32))
  return arrays.partitioned(split, [np.arange(7), np.arange(7, 10)])


def labels(spec, data, client='client_0', round_num=1):
  dataset = spec.dataset(data, client, round_num, lambda batch: batch)
  return [batch['y'].tolist() for batch in dataset.as_numpy_iterator()]


def test_epochs_are_passes_in_orders_of_their_own(data):
  read = labels(batches.ClientBatches(3, 4, 0), data)
  assert [len(batch) for batch in read] == [4] * 5 + [1]
  flat = [label for batch in read for label in batch]
  epochs = [flat[i : i + 7] for i in range(0, 21, 7)]
  assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
  assert epochs[0] != epochs[1]


def test_order_depends_on_seed_round_and_client(data):
  spec = batches.ClientBatches(1, 7, 0)
  assert labels(spec, data) == labels(spec, data)
  assert labels(spec, data) != labels(spec, data, round_num=2)
  assert labels(spec, data) != labels(batches.ClientBatches(1, 7, 1), data)


def test_batch_size_zero_is_everything_at_once(data):
  assert labels(batches.ClientBatches(2, 0, 0), data) == [list(range(7))] * 2
  assert labels(batches.ClientBatches(1, 0, 0), data, 'client_1') == [[7, 8, 9]]


@pytest.mark.parametrize('batch_size', [0, 4])
def test_max_elements_bounds_a_round_and_draws_anew(data, batch_size):
  spec = batches.ClientBatches(2, batch_size, 0, max_elements=5)
  rounds = [np.concatenate(labels(spec, data, round_num=number)) for number in range(20)]
  assert all(len(set(flat)) == len(flat) == 5 for flat in rounds)
  assert set.union(*map(set, rounds)) == set(range(7))
  assert [len(batch) for batch in labels(spec, data)] == ([4, 1] if batch_size else [5])


def test_preprocess_sees_examples_as_a_batch(data):
  spec = batches.ClientBatches(1, 4, 0)
  dataset = spec.dataset(data, 'client_0', 1, lambda batch: batch['x'] * 2)
  assert sorted(np.concatenate(list(dataset))[:, 0]) == list(range(0, 14, 2))


@pytest.fixture
def keys(data):
  """Gives all keys of some settings, client and round."""

  def keys(seed=0, client='client_0', round_num=1, **settings):
    spec = batches.ClientBatches(2, 4, seed, dropout_keys=True, **settings)
    dataset = spec.dataset(data, client, round_num, lambda batch: batch)
    return [int(batch['x']['dropout_key']) for batch in dataset]

  return keys


@pytest.mark.parametrize('settings', [{}, dict(max_elements=5)])
def test_keys_come_with_the_same_batches(data, settings):
  plain, keyed = (
    batches.ClientBatches(2, 4, 0, dropout_keys=has_keys, **settings).dataset(
      data, 'client_0', 1, lambda batch: batch
    )
    for has_keys in (False, True)
  )
  assert keyed.cardinality() == plain.cardinality()
  for one, other in zip(keyed, plain, strict=True):
    np.testing.assert_array_equal(one['x']['examples'], other['x'])
    np.testing.assert_array_equal(one['y'], other['y'])
    assert one['x']['dropout_key'].dtype == np.int64


def test_keys_are_of_seed_client_round_and_step_alone(keys):
  assert len(keys()) == 4 and keys() == keys()
  assert keys(max_elements=5) == keys()[:2]
  all_keys = [keys(), keys(seed=1), keys(client='client_1'), keys(round_num=2)]
  flat = [key for some in all_keys for key in some]
  assert len(set(flat)) == len(flat)


def test_a_client_without_examples_has_no_batches():
  split = arrays.Split(np.zeros([3, 1]), np.zeros(3, np.int32))
  data = arrays.partitioned(split, [np.arange(3), np.arange(0)])
  spec = batches.ClientBatches(1, 2, 0, dropout_keys=True)
  assert spec.dataset(data, 'client_1', 1, lambda batch: batch).cardinality() == 0


@pytest.mark.parametrize('has_keys', [False, True])
def test_rates_come_with_the_same_batches(data, has_keys):
  given = dict(client_0=0.3, client_1=np.float64(0.05))
  plain, rated = (
    batches.ClientBatches(2, 4, 0, dropout_keys=has_keys, learning_rate=function)
    for function in (None, given.get)
  )
  for client, rate in given.items():
    found, wanted = (spec.dataset(data, client, 1, lambda batch: batch) for spec in (rated, plain))
    assert found.cardinality() == wanted.cardinality() > 0
    assert found.element_spec['learning_rate'] == tf.TensorSpec([], tf.float32)
    for one, other in zip(found, wanted, strict=True):
      assert one['learning_rate'].numpy() == np.float32(rate)
      tf.nest.map_structure(np.testing.assert_array_equal, one['batch'], other)


@pytest.mark.parametrize('rate', [-0.1, float('nan'), 1e39, 'fast', None, True])
def test_refuses_what_is_no_rate(data, rate):
  spec = batches.ClientBatches(1, 4, 0, learning_rate=lambda _: rate)
  with pytest.raises((TypeError, ValueError), match=r"`learning_rate\('client_1'\)` must be"):
    spec.dataset(data, 'client_1', 1, lambda batch: batch)


def test_refuses_bad_settings():
  with pytest.raises(ValueError, match='`epochs` must be at least 1'):
    batches.ClientBatches(0, 1, 0)
  with pytest.raises(ValueError, match='`batch_size` must be at least 0'):
    batches.ClientBatches(1, -1, 0)
  with pytest.raises(ValueError, match='`max_elements` must be at least 0'):
    batches.ClientBatches(1, 1, 0, max_elements=-1)


@pytest.mark.parametrize('epochs', [1, 3])
@pytest.mark.parametrize('batch_size', [0, 3, 7, 100])
@pytest.mark.parametrize('max_elements', [0, 5, 9, 1000])
def test_steps_are_counted_without_reading(data, epochs, batch_size, max_elements):
  spec = batches.ClientBatches(epochs, batch_size, 0, max_elements)
  for client, count in (('client_0', 7), ('client_1', 3)):
    assert spec.num_steps(count) == len(labels(spec, data, client))
  assert spec.num_steps(0) == 0
