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
