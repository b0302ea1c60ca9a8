import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.execution import repeatability

COUNT = tf.Variable(1, dtype=tf.int64)


def dataset(*values):
  return tf.data.Dataset.from_tensor_slices(np.array(values, np.int64))


def generated():
  return tf.data.Dataset.from_generator(
    lambda: iter([1, 2]), output_signature=tf.TensorSpec([], tf.int64)
  )


@pytest.mark.parametrize(
  ['data', 'expected'],
  [
    (dataset(1, 2).batch(2).map(lambda x: x + 1).repeat(2).prefetch(1).take(3).skip(1), True),
    (dataset(1).concatenate(dataset(2)).cache(), True),
    (tf.data.Dataset.zip((dataset(1), tf.data.Dataset.range(3))), True),
    (dataset(1, 2).shuffle(2), False),
    (dataset(1, 2).shuffle(2, seed=1, reshuffle_each_iteration=False).batch(2), False),
    (dataset(1, 2).map(lambda x: x + tf.random.uniform([], 0, 9, tf.int64)), False),
    (tf.data.Dataset.random(seed=1).take(2), False),
    (generated(), False),
    (dataset(1, 2).map(lambda x: x + COUNT), False),
    (dataset(1, 2).map(lambda x: tf.cond(x > 1, COUNT.read_value, lambda: x)), False),
    (dataset(1, 2).filter(lambda x: x > COUNT).batch(2), False),
  ],
)
def test_is_repeatable(data, expected):
  assert repeatability.is_repeatable(data) is expected


@tf.function
def read_file(path):
  return tf.io.read_file(path)


@pytest.mark.parametrize(
  'read_one',
  [
    tf.io.read_file,
    read_file,
    lambda path: tf.cond(path == '', lambda: path, lambda: tf.io.read_file(path)),
    lambda path: tf.numpy_function(lambda p: p, [path], tf.string, stateful=False),
    tf.io.matching_files,
  ],
)
def test_what_reads_files_is_not_repeatable(read_one):
  paths = tf.data.Dataset.from_tensor_slices(['a', 'b'])
  assert repeatability.is_repeatable(paths)
  assert not repeatability.is_repeatable(paths.map(read_one))


def read(data):
  return [int(x) for x in data]


def test_copies_start_from_the_seeds():
  data = dataset(*range(9)).shuffle(9, seed=1)
  graph, holds_values = repeatability.graph_with_own_state(data)
  assert not holds_values
  copies = [repeatability.copy_from_graph(graph, data.element_spec) for _ in range(2)]
  passes = [[read(copy) for _ in range(2)] for copy in copies]
  assert passes[0] == passes[1]
  assert passes[0][0] != passes[0][1]


def test_copies_hold_values_of_their_own():
  data = dataset(1, 2).map(lambda x: x + COUNT)
  copies = []
  for count in (10, 20):
    COUNT.assign(count)
    graph, holds_values = repeatability.graph_with_own_state(data)
    assert holds_values
    copies.append(repeatability.copy_from_graph(graph, data.element_spec))
  assert [read(copy) for copy in copies] == [[11, 12], [21, 22]]


def test_a_graph_that_calls_python_is_of_this_process():
  generated = tf.data.Dataset.from_generator(
    lambda: iter([1]), output_signature=tf.TensorSpec([], tf.int32)
  )
  called = tf.data.Dataset.range(3).map(lambda n: tf.numpy_function(lambda x: x, [n], tf.int64))
  for dataset, expected in (
    (generated, True),
    (called.batch(2), True),
    (tf.data.Dataset.range(3).shuffle(3, seed=1), False),
    (tf.data.Dataset.range(3).map(lambda n: n + 1), False),
  ):
    graph, _ = repeatability.graph_with_own_state(dataset)
    assert repeatability.is_of_this_process(graph) is expected
