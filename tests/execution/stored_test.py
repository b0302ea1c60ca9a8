import collections

import numpy as np
import tensorflow_federated as tff

from tff_lowrank import client_state
from tff_lowrank.execution import stored


class Elsewhere(stored.StoredValue):
  def __init__(self, arrays):
    super().__init__([(a.shape, a.dtype) for a in arrays])
    self._arrays, self.num_fetched = arrays, 0

  def fetch(self):
    self.num_fetched += 1
    return self._arrays


def test_arrays_are_fetched_where_numbers_are_asked_for():
  first, second = np.arange(6.0).reshape(2, 3), np.int32([4, 5])
  value = Elsewhere([first, second])
  assert [a.shape for a in value.arrays] == [(2, 3), (2,)]
  assert repr(value.arrays[1]) == 'StoredArray(int32 [2])'
  assert value.num_fetched == 0
  np.testing.assert_array_equal(np.asarray(value.arrays[0]), first)
  np.testing.assert_array_equal(np.asarray(value.arrays[1], np.float32), np.float32([4, 5]))
  assert value.num_fetched == 2


def test_a_store_of_client_memory_saves_them_as_it_does_arrays():
  arrays = [np.arange(3, dtype=np.float32), np.ones((2, 2), np.float32)]
  like = collections.OrderedDict(a=np.zeros(3, np.float32), b=np.zeros((2, 2), np.float32))
  memory = collections.OrderedDict(zip('ab', Elsewhere(arrays).arrays, strict=True))
  saved = []
  for state in (memory, collections.OrderedDict(zip('ab', arrays, strict=True))):
    store = client_state.MemoryStore(like)
    store.stage(['x'], [state])
    store.commit(1)
    pieces = []
    store.save(pieces.append)
    saved.append(b''.join(pieces))
  assert saved[0] == saved[1]


def test_values_stay_inside_the_block_only():
  assert not stored.do_client_values_stay()
  with stored.client_values_stay():
    assert stored.do_client_values_stay()
    with stored.client_values_stay():
      pass
    assert stored.do_client_values_stay()
  assert not stored.do_client_values_stay()


def test_specs_are_of_numbers_of_one_shape():
  numbers = tff.to_type(collections.OrderedDict(x=(np.float32, (3, 2)), y=[np.int64, np.bool_]))
  specs = stored.specs_of(numbers)
  assert specs == [((3, 2), np.float32), ((), np.int64), ((), np.bool_)]
  assert stored.num_bytes(specs) == 3 * 2 * 4 + 8 + 1
  for other in (
    tff.TensorType(np.float32, (None,)),
    tff.TensorType(np.str_),
    tff.SequenceType(np.int32),
    tff.StructType([np.float32, tff.TensorType(np.str_)]),
  ):
    assert stored.specs_of(other) is None
