import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import user_data

CLASSES, NUMBERS = user_data.Format(), user_data.Format(classes=False)


@pytest.mark.parametrize(
  'form, names, expected',
  [
    (user_data.Format(), ['image', 'label'], ('image', 'label')),
    (user_data.Format(), ['y', 'x'], ('x', 'y')),
    (user_data.Format(x_key='a'), ['a', 'label', 'c'], ('a', 'label')),
    (user_data.Format(x_key='target'), ['target', 'y'], ('target', 'y')),
    (user_data.Format(label_key='c'), ['a', 'c'], ('a', 'c')),
    (user_data.Format('c', 'a'), ['a', 'b', 'c'], ('c', 'a')),
  ],
)
def test_names_of_examples_and_labels(form, names, expected):
  assert form.keys('here', names) == expected


@pytest.mark.parametrize(
  'form, names',
  [
    (user_data.Format(), ['a', 'b']),
    (user_data.Format(), ['y', 'label']),
    (user_data.Format(), ['a', 'b', 'y']),
    (user_data.Format(), ['y']),
    (user_data.Format(x_key='z'), ['x', 'y']),
  ],
)
def test_names_that_do_not_say_which_is_which(form, names):
  with pytest.raises(ValueError, match='here: expected'):
    form.keys('here', names)


def test_types():
  x = np.zeros((2, 3))
  for y in (np.int64([0, 7]), np.uint8([[0], [7]]), tf.constant([0, 7])):
    split = CLASSES.split('here', x, y)
    assert split.x.dtype == np.float32 and split.y.dtype == np.int32
    assert split.y.tolist() == [0, 7]
    numbers = NUMBERS.split('here', x, y)
    assert numbers.y.dtype == np.float32 and numbers.y.tolist() == [[0], [7]]
  tokens = CLASSES.split('here', np.zeros((2, 5), np.int16), np.ones((2, 5), np.int64))
  assert tokens.x.dtype == np.int16 and tokens.y.shape == (2, 5)
  assert CLASSES.split('here', ['a', 'bc'], [0, 1]).x.tolist() == [b'a', b'bc']
  with pytest.raises(ValueError, match='found 2147483648'):
    CLASSES.split('here', x, [0, 2**31])


def test_ids_become_text():
  assert user_data.text_ids([3, 'b', b'c']) == {3: '3', 'b': 'b', b'c': 'c'}
  with pytest.raises(ValueError, match="the id '3'"):
    user_data.text_ids([3, '3'])


@pytest.mark.parametrize('count', [0, 1, 3000])
def test_a_data_set_is_read_whole(count):
  x, y = np.arange(2.0 * count).reshape(count, 2, 1), np.arange(count)
  for elements in ((x, y), dict(label=y, x=x)):
    split = user_data.read_dataset('here', tf.data.Dataset.from_tensor_slices(elements), CLASSES)
    np.testing.assert_array_equal(split.x, x)
    np.testing.assert_array_equal(split.y, y)
    assert split.x.shape == (count, 2, 1) and split.x.dtype == np.float32


def test_client_data_of_this_package_stays_as_it_is():
  given = arrays.partitioned(arrays.Split(np.zeros(3), np.zeros(3, np.int32)), [np.arange(3)])
  assert user_data.by_client(given, CLASSES) is given
  assert user_data.by_client(dict(x=np.zeros(3), y=np.zeros(3)), CLASSES) is None
  assert user_data.by_client((given, given), CLASSES) is None


def test_clients_without_examples_can_be_added():
  split = arrays.Split(np.ones((3, 2)), np.zeros(3, np.int32))
  whole = user_data.Completed(user_data.MappingClientData({'b': split}), ['b', 'a'])
  assert whole.client_ids == ['a', 'b'] and whole.examples('b') is split
  assert whole.examples('a').x.shape == (0, 2)
  with pytest.raises(ValueError, match="no client 'c' among 2"):
    whole.examples('c')


def test_all_examples_in_the_order_of_ids():
  clients = user_data.by_client({2: (np.ones(2), [1, 1]), 1: (np.zeros(1), [0])}, CLASSES)
  assert user_data.pooled(clients).y.tolist() == [0, 1, 1]
