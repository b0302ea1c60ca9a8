import collections
import pickle
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import execution
from tff_lowrank.execution import plan
from tff_lowrank.execution import sequences
from tff_lowrank.execution import stored
from tff_lowrank.execution import transport
from tff_lowrank.execution import values


class Objects:
  """A store of objects, which keeps them as bytes."""

  def __init__(self):
    self.objects = []
    self.num_read = 0

  def put(self, value):
    self.objects.append(pickle.dumps(value))
    return len(self.objects) - 1

  def get(self, held):
    self.num_read += len(held)
    return [pickle.loads(self.objects[h.references[0]]) for h in held]


def sent(value, objects=None):
  """`value` as another process gets it."""
  objects = objects or Objects()
  packer = transport.Packer(objects.put, weakref.WeakKeyDictionary())
  return transport.Unpacker(objects.get).unpack(pickle.loads(pickle.dumps(packer.pack(value))))


def sequence(dataset):
  element = tff.types.tensorflow_to_type(dataset.element_spec)
  return values.Converter().convert_in(dataset, tff.SequenceType(element))


def read(value):
  return [[np.asarray(t).tolist() for t in element] for element in value.elements()]


def stacked(value):
  return [[np.asarray(a).tolist() for a in chunk] for chunk in value.chunks()]


def test_tensors_and_structs_come_back_equal():
  value = [tf.constant([1.5, 2.5]), [tf.constant(3, tf.int64), tf.constant([b'a', b'bc'])],
           tf.constant(b'text'), tf.constant(True), tf.zeros([0, 3])]  # fmt: skip
  found = sent(value)
  for a, b in zip(tf.nest.flatten(value), tf.nest.flatten(found), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_a_large_array_is_put_once_however_often_it_is_sent():
  objects, large = Objects(), tf.random.uniform([stored.MIN_BYTES // 4])
  packer = transport.Packer(objects.put, weakref.WeakKeyDictionary())
  packed = [packer.pack([large, tf.constant(k)]) for k in range(3)]
  assert len(objects.objects) == 1
  assert stored.MIN_BYTES <= packer.num_bytes < stored.MIN_BYTES + 100
  unpacker = transport.Unpacker(objects.get)
  for k in range(3):
    found = unpacker.unpack(packed[k])
    np.testing.assert_array_equal(found[0], large)
    assert int(found[1]) == k


def test_where_clients_differ_there_are_slots():
  of_clients = plan.AtClients([tf.constant(k) for k in range(4)])
  slots = []
  packer = transport.Packer(Objects().put, weakref.WeakKeyDictionary())
  packed = packer.pack([tf.constant(9), of_clients], slots)
  assert packed[1] == transport.AtClientsSlot(0) and slots == [of_clients]


def batched(count=7):
  return tf.data.Dataset.from_tensor_slices(
    collections.OrderedDict(y=np.arange(count), x=np.random.default_rng(0).random((count, 2)))
  ).batch(3)


@pytest.mark.parametrize('count', [1, 3, 6, 7])
def test_batches_travel_as_arrays(count):
  original = sequence(batched(count))
  found = sent(original)
  assert found.is_repeatable
  assert read(found) == read(original) == read(found)
  assert stacked(found) == stacked(original)
  assert found.batches().shapes == original.batches().shapes
  again = found.as_dataset()
  assert again.element_spec == original.as_dataset().element_spec
  assert read(sequence(again)) == read(original)
  assert read(sequences.Variant(found.variant(), found.element_type)) == read(original)


def test_data_sets_that_are_sent_again_are_put_once_and_kept():
  objects, known = Objects(), weakref.WeakKeyDictionary()
  x = np.zeros((100, 200), np.float32)
  original = sequence(tf.data.Dataset.from_tensor_slices(x).batch(10))
  packed = [transport.Packer(objects.put, known).pack([original]) for _ in range(3)]
  assert len(objects.objects) == 1
  unpacker = transport.Unpacker(objects.get)
  found = [unpacker.unpack(p)[0] for p in packed]
  assert objects.num_read == 1 and found[0] is found[1] is found[2]


def test_what_shuffles_travels_as_a_graph_and_starts_from_its_seeds():
  dataset = tf.data.Dataset.range(20).shuffle(20, seed=3).batch(4)
  original = sequence(dataset)
  found = sent(original)
  assert not found.is_repeatable
  # The first pass, and then another one: both as where it came from.
  assert read(found) == read(original)
  second = read(found)
  assert second == read(original) and second != read(sent(sequence(dataset)))


def test_a_generator_s_elements_travel():
  dataset = tf.data.Dataset.from_generator(
    lambda: iter([1, 5, 7]), output_signature=tf.TensorSpec([], tf.int32)
  )
  original = sequence(dataset)
  found = sent(original)
  assert read(found) == [[1], [5], [7]] and not found.is_repeatable
  assert found.as_dataset().element_spec == dataset.element_spec


def test_elements_unlike_each_other_travel():
  dataset = tf.data.Dataset.range(1, 5).map(lambda n: tf.range(n))
  found = sent(sequence(dataset))
  assert read(found) == [[[0]], [[0, 1]], [[0, 1, 2]], [[0, 1, 2, 3]]]


def test_values_made_in_a_computation_travel():
  element = tff.StructType([('b', tff.TensorType(np.int32)), ('a', tff.TensorType(np.int32))])
  elements = sequences.Elements([[tf.constant(1), tf.constant(2)]], element)
  assert read(sent(elements)) == read(elements)
  variant = sequences.Variant(
    tf.data.experimental.to_variant(tf.data.Dataset.range(3)), tff.TensorType(np.int64)
  )
  found = sent(variant)
  assert isinstance(found, sequences.Variant) and read(found) == [[0], [1], [2]]


def test_a_description_travels_without_its_data_and_its_source_once():
  objects, known = Objects(), weakref.WeakKeyDictionary()
  payload = b'x' * 1000
  source = execution.DataSource(_open, payload)
  element = tff.SequenceType(np.int64)
  packer = transport.Packer(objects.put, known)
  packed = [packer.pack(transport.Described(source.describe(c, 2), element)) for c in 'ab']
  assert len(objects.objects) == 1 and all(len(pickle.dumps(p)) < 800 for p in packed)
  unpacker = transport.Unpacker(objects.get)
  first, second = (unpacker.unpack(p) for p in packed)
  assert objects.num_read == 1 and first.description.source is second.description.source
  assert first.type_spec == element
  assert [int(x) for x in second.description.open()] == [1000, 1001]


def _open(payload):
  return lambda client_id, round_num: tf.data.Dataset.range(len(payload), len(payload) + round_num)


class _Stored(stored.StoredValue):
  references = (0,)

  def fetch(self):
    raise AssertionError('It was fetched.')


def test_what_is_stored_elsewhere_travels_by_reference():
  objects = Objects()
  arrays = [np.float32([1, 2]), np.int32(7)]
  objects.put(arrays)
  value = _Stored([(a.shape, a.dtype) for a in arrays])
  found = sent([value.arrays[1], value], objects)
  assert int(found[0]) == 7
  np.testing.assert_array_equal(found[1][0], arrays[0])


def test_plain_values_come_back_without_a_store():
  value = [tf.constant([1.0]), [sequence(batched())]]
  found = transport.unpack_plain(pickle.loads(pickle.dumps(transport.plain(value))))
  assert float(found[0][0]) == 1.0 and read(found[1][0]) == read(value[1][0])
