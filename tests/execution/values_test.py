import collections

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import values

AT_CLIENTS = tff.FederatedType(np.float32, tff.CLIENTS)


def test_num_clients():
  both = tff.to_type([AT_CLIENTS, tff.FederatedType(np.int32, tff.SERVER), AT_CLIENTS])
  assert values.num_clients([[1.0, 2.0], 3, [4.0, 5.0]], both) == 2
  assert values.num_clients(3, tff.TensorType(np.int32)) is None
  with pytest.raises(ValueError, match='2 vs 1'):
    values.num_clients([[1.0, 2.0], 3, [4.0]], both)
  with pytest.raises(TypeError, match='Expected a list with one value per client'):
    values.num_clients(1.0, AT_CLIENTS)


def test_structs_by_name_and_by_position():
  type_spec = tff.StructType([('a', np.int32), ('b', np.float32)])
  convert = values.Converter().convert_in
  for value in (
    {'b': 2.0, 'a': 1},
    collections.OrderedDict(a=1, b=2.0),
    (1, 2.0),
    attrs.make_class('Pair', ['a', 'b'])(1, 2.0),
  ):
    assert [x.numpy() for x in convert(value, type_spec)] == [1, 2.0]
  with pytest.raises(TypeError, match='Expected 2 items'):
    convert((1,), type_spec)
  with pytest.raises(TypeError, match="Expected an item named 'a'"):
    convert(collections.OrderedDict(c=1, b=2.0), type_spec)


@pytest.mark.parametrize(
  ['value', 'type_spec', 'message'],
  [
    (1.5, tff.TensorType(np.int32), 'dtype'),
    ('x', tff.TensorType(np.int32), 'dtype'),
    (np.zeros([3], np.float32), tff.TensorType(np.float32, [2]), 'shape'),
    (tf.zeros([2], tf.float64), tff.TensorType(np.float32, [2]), 'dtype'),
    (3, tff.SequenceType(np.int32), 'tf.data.Dataset'),
  ],
)
def test_refuses_values_of_other_types(value, type_spec, message):
  with pytest.raises(TypeError, match=message):
    values.Converter().convert_in(value, type_spec)


def test_results_are_known_when_they_come_back():
  converter = values.Converter()
  tensor = tf.constant([1.0, 2.0])
  type_spec = tff.TensorType(np.float32, [2])
  array = converter.convert_out(tensor, type_spec)
  assert converter.convert_in(array, type_spec) is tensor
  with pytest.raises(ValueError, match='read-only'):
    array[0] = 3
  assert converter.convert_in(array.copy(), type_spec) is not tensor
  del array
  assert not converter._tensors


def test_scalars_and_strings_come_out_as_numpy():
  out = values.Converter().convert_out
  assert out(tf.constant(3), tff.TensorType(np.int32)) == np.int32(3)
  assert out(tf.constant('x'), tff.TensorType(np.str_)) == b'x'
  assert out(tf.constant(['x', 'y']), tff.TensorType(np.str_, [2])).tolist() == [b'x', b'y']
