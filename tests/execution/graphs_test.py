import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tff_lowrank.execution import graphs
from tff_lowrank.execution import loops
from tff_lowrank.execution import sequences


def graph_of(computation):
  proto = computation.to_building_block().proto
  return graphs.GraphFunction(proto.tensorflow)


def test_variables_start_anew_in_each_run():
  @tff.tensorflow.computation(np.int32)
  def count(x):
    variable = tf.Variable(10)
    with tf.control_dependencies([variable.assign_add(x)]):
      return variable.read_value()

  graph = graph_of(count)
  for _ in range(2):
    assert [int(t) for t in graph([tf.constant(2)], loops.Engine())] == [12]


def test_tables_are_made_in_each_run():
  @tff.tensorflow.computation(np.str_)
  def look_up(word):
    init = tf.lookup.KeyValueTensorInitializer(['a', 'b'], tf.constant([1, 2], tf.int64))
    return tf.lookup.StaticHashTable(init, -1).lookup(word)

  graph = graph_of(look_up)
  for word, number in (('b', 2), ('c', -1), ('a', 1)):
    assert int(graph([tf.constant(word)], loops.Engine())[0]) == number


def test_loops_are_cut_level_by_level():
  @tff.tensorflow.computation(tff.SequenceType(np.int64), np.int64)
  def twice(data, start):
    add = lambda a, b: a + b  # noqa: E731
    first = data.reduce(start, add)
    second = data.map(lambda x: x * 2).reduce(first, add)
    return collections.OrderedDict(first=first, second=second, plain=start * 3)

  graph = graph_of(twice)
  found = [[loop.parameter for loop in level] for level in graph.loops]
  assert found == [[0], [None], []]
  data = tf.data.Dataset.from_tensor_slices(np.array([1, 2, 3], np.int64))
  source = sequences.Dataset(data, tff.TensorType(np.int64))
  results = graph([source, tf.constant(10, tf.int64)], loops.Engine())
  assert [int(t) for t in results] == [16, 28, 30]


def test_two_graphs_may_define_functions_of_one_name():
  def build(factor):
    @tff.tensorflow.computation(tff.SequenceType(np.int64))
    def fold(data):
      return data.reduce(np.int64(0), lambda a, b: a + factor * b)

    return fold

  data = sequences.Dataset(
    tf.data.Dataset.from_tensor_slices(np.array([1, 2], np.int64)), tff.TensorType(np.int64)
  )
  found = [int(graph_of(build(f))([data], loops.Engine())[0]) for f in (1, 5, 7)]
  assert found == [3, 15, 21]


def test_operations_leave_out_loops_and_assertions_on_shapes():
  types = {op_type for op_type, _ in graph_of(cases.total).operations()}
  assert 'ReduceDataset' not in types and 'Assert' not in types
  assert types
