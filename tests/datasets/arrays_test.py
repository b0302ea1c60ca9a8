import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays


@pytest.fixture
def data():
  split = arrays.Split(np.arange(12).reshape(6, 2).astype(np.uint8), np.int32([0, 1, 2, 0, 1, 2]))
  return arrays.partitioned(split, [np.array([4, 1]), np.array([0, 2, 3, 5])])


def test_clients_have_their_examples_in_order(data):
  assert isinstance(data, tff.simulation.datasets.ClientData)
  assert data.client_ids == ['client_0', 'client_1']
  assert data.num_examples('client_1') == 4
  elements = list(data.create_tf_dataset_for_client('client_0').as_numpy_iterator())
  assert [e['y'] for e in elements] == [1, 1]
  np.testing.assert_array_equal([e['x'] for e in elements], [[8, 9], [2, 3]])
  assert data.create_tf_dataset_for_client('client_0').element_spec == data.element_type_structure


def test_serializable_form_gives_the_same(data):
  dataset_fn = tf.function(lambda client: tf.data.experimental.get_single_element(
    data.serializable_dataset_fn(client).batch(10)))  # fmt: skip
  for client in data.client_ids:
    expected = next(iter(data.create_tf_dataset_for_client(client).batch(10)))
    got = dataset_fn(tf.constant(client))
    tf.nest.map_structure(np.testing.assert_array_equal, got, expected)
  with pytest.raises(tf.errors.InvalidArgumentError, match='No such client'):
    dataset_fn(tf.constant('client_7'))


def test_ids_sort_as_their_numbers():
  split = arrays.Split(np.zeros([12, 1], np.uint8), np.zeros(12, np.int32))
  data = arrays.partitioned(split, list(np.arange(12)[:, None]))
  assert data.client_ids == [f'client_{k:02d}' for k in range(12)]


def test_refuses_unknown_clients(data):
  with pytest.raises(ValueError, match="no client 'x' among 2 clients"):
    data.create_tf_dataset_for_client('x')


def test_held_out_examples_are_each_clients_own(rng):
  split = arrays.Split(rng.normal(size=(60, 2)), np.arange(60, dtype=np.int32))
  parts = [np.arange(50), np.arange(50, 59), np.array([59]), np.array([], np.int64)]
  whole = arrays.partitioned(split, parts)
  train, test = whole.held_out(0.2, seed=3)
  assert train.client_ids == test.client_ids == whole.client_ids
  assert [test.num_examples(c) for c in test.client_ids] == [10, 2, 0, 0]
  for client in whole.client_ids:
    both = np.concatenate([train.examples(client).y, test.examples(client).y])
    np.testing.assert_array_equal(np.sort(both), np.sort(whole.examples(client).y))
  again, other = (whole.held_out(0.2, seed=s)[1].examples('client_0').y for s in (3, 4))
  np.testing.assert_array_equal(again, test.examples('client_0').y)
  assert set(other) != set(again)
  # Nobody is left without examples to train on.
  all_but_one, _ = whole.held_out(1.0, seed=3)
  assert [all_but_one.num_examples(c) for c in whole.client_ids] == [1, 1, 1, 0]
  with pytest.raises(ValueError, match='`test_fraction`'):
    whole.held_out(1.5, seed=3)
