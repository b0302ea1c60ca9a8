import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import sequences

INT = tff.TensorType(np.int64)


def dataset(*values):
  return tf.data.Dataset.from_tensor_slices(np.array(values, np.int64))


def generated():
  return tf.data.Dataset.from_generator(
    lambda: iter([1, 2]), output_signature=tf.TensorSpec([], tf.int64)
  )


def test_restarted_copies_begin_from_the_seeds():
  data = dataset(1, 2, 3, 4, 5, 6).shuffle(6, seed=2)
  first = sequences.Dataset(data, INT)
  passes = []
  for _ in range(2):
    copy = first.restarted()
    passes.append([[int(x) for (x,) in copy.elements()] for _ in range(2)])
  assert passes[0] == passes[1]
  assert passes[0][0] != passes[0][1]


def test_the_first_pass_in_memory_is_the_first_chunk():
  data = dataset(1, 2, 3, 4, 5, 6).shuffle(6, seed=2)
  source = sequences.Dataset(data, INT)
  wanted = [[int(x) for (x,) in copy.elements()] for copy in [source.restarted()] for _ in range(2)]
  copy = source.restarted()
  assert copy.batches().full[0].tolist() == wanted[0]
  assert copy.batches() is copy.batches()
  assert next(copy.chunks())[0].tolist() == wanted[0]
  assert next(copy.chunks())[0].tolist() == wanted[1]


def test_what_cannot_be_stacked_is_as_if_it_had_not_been_read():
  data = dataset(1, 2, 3, 4, 5).shuffle(5, seed=2)
  ragged = data.map(lambda x: tf.range(x))
  lengths = [len(x) for (x,) in sequences.Dataset(ragged, INT).restarted().elements()]
  copy = sequences.Dataset(ragged, INT).restarted()
  assert copy.batches() is None
  assert [len(x[0]) for x in copy.chunks()] and [len(x) for (x,) in copy.elements()]
  copy = sequences.Dataset(ragged, INT).restarted()
  copy.batches()
  assert [piece[0].shape[1] for piece in copy.chunks()] == lengths


def test_a_memo_holds_no_data_set():
  data = dataset(1, 2)
  memo = sequences.Memo(data)
  assert sequences.Dataset(data, INT, memo).batches().num_full == 2
  reference = weakref.ref(data)
  del data
  gc.collect()
  assert reference() is None
  assert memo.batches.num_full == 2


def test_stack_gives_full_elements_and_a_tail():
  batches = sequences.Dataset(dataset(*range(7)).batch(3), INT).batches()
  np.testing.assert_array_equal(batches.full[0], [[0, 1, 2], [3, 4, 5]])
  np.testing.assert_array_equal(batches.tail[0], [6])
  assert batches.num_steps == 3
  assert sequences.Dataset(dataset(1, 2), INT).batches().tail is None


@pytest.mark.parametrize(
  'data',
  [
    dataset(),
    tf.data.Dataset.from_tensor_slices(['a', 'b']),
    dataset(1, 2, 3, 4).window(2),
    dataset(1, 2, 3).map(lambda x: tf.range(x)),
    dataset(1, 2, 3).batch(2).concatenate(dataset(1, 2).batch(2)),
  ],
)
def test_stack_refuses_what_is_not_alike(data):
  assert sequences.Dataset(data, INT).batches() is None


def test_chunks_are_runs_of_equal_shapes():
  data = dataset(1, 2, 3, 4, 5).batch(2).concatenate(dataset(6, 7).batch(2))
  pieces = [piece[0].tolist() for piece in sequences.Dataset(data, INT).chunks()]
  assert pieces == [[[1, 2], [3, 4]], [[5]], [[6, 7]]]


def test_elements_in_the_order_of_tensorflow():
  element = tff.StructWithPythonType([('b', np.int32), ('a', np.int32)], dict)
  assert sequences.component_order(element) == [1, 0]
  values = sequences.Elements([[tf.constant(1), tf.constant(2)]], element)
  assert list(values.as_dataset().as_numpy_iterator()) == [{'b': 1, 'a': 2}]
  assert [[int(x) for x in e] for e in values.elements()] == [[2, 1]]
  assert [[int(x) for x in v] for v in sequences.values(values, element)] == [[1, 2]]
