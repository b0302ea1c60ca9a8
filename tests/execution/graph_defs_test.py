import threading
import time

import pytest
import tensorflow as tf

from tff_lowrank.execution import graph_defs


def test_functions_are_renamed_wherever_they_are_named():
  double = tf.function(lambda x: 2 * x)
  concrete = tf.function(lambda x: double(x) + double(-x)).get_concrete_function(
    tf.TensorSpec([], tf.float32)
  )
  graph_def = concrete.graph.as_graph_def()
  before = {f.signature.name for f in graph_def.library.function}
  graph_defs.rename_functions(graph_def)
  after = {f.signature.name for f in graph_def.library.function}
  assert len(after) == len(before) and not after & before
  called = {n.attr['f'].func.name for n in graph_def.node if 'f' in n.attr}
  assert called <= after


def test_lazy_builds_once():
  built = []

  def build():
    built.append(1)
    return tf.function(lambda x: [x + 1]).get_concrete_function(tf.TensorSpec([], tf.int32))

  lazy = graph_defs.Lazy(build)
  assert not built
  assert [int(lazy(tf.constant(i))[0]) for i in (1, 2)] == [2, 3]
  assert built == [1]


def test_lazy_builds_once_for_many_threads():
  built = []

  def build():
    built.append(1)
    time.sleep(0.2)
    return tf.function(lambda x: [x + 1]).get_concrete_function(tf.TensorSpec([], tf.int32))

  lazy = graph_defs.Lazy(build)
  results = []
  threads = [
    threading.Thread(target=lambda i=i: results.append(int(lazy(tf.constant(i))[0])))
    for i in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert sorted(results) == [1, 2, 3, 4]
  assert built == [1]


def test_what_was_prepared_has_not_run():
  runs = tf.Variable(0)

  @tf.function
  def count(x):
    runs.assign_add(x)
    return [runs.read_value()]

  lazy = graph_defs.Lazy(lambda: count.get_concrete_function(tf.TensorSpec([], tf.int32)))
  lazy.prepare()
  assert int(runs) == 0
  assert [int(lazy(tf.constant(2))[0]) for _ in range(2)] == [2, 4]


def test_an_error_is_that_of_the_call():
  @tf.function
  def fail(x):
    return [tf.debugging.check_numerics(x, 'not a number')]

  lazy = graph_defs.Lazy(lambda: fail.get_concrete_function(tf.TensorSpec([], tf.float32)))
  lazy.prepare()
  with pytest.raises(tf.errors.InvalidArgumentError, match='not a number'):
    lazy(tf.constant(float('nan')))


def library_of(*functions):
  library = tf.compat.v1.GraphDef().library
  for name, calls, implements in functions:
    function = library.function.add()
    function.signature.name = name
    if implements:
      function.attr['api_implements'].s = implements
    for called in calls:
      function.node_def.add(op='PartitionedCall').attr['f'].func.name = called
  return library


def test_only_functions_that_are_called_are_added():
  library = library_of(
    ('a', ['b'], b''), ('b', [], b'lstm'), ('for_gpu', ['c'], b'lstm'), ('c', [], b''),
    ('d', ['a'], b''), ('gradient', [], b''), ('gradient_of_d', [], b''),
  )  # fmt: skip
  for name, gradient in (('c', 'gradient'), ('d', 'gradient_of_d')):
    library.gradient.add(function_name=name, gradient_func=gradient)
  graph_def = tf.compat.v1.GraphDef()
  graph_def.node.add(op='While').attr['bodies'].list.func.add(name='a')
  graph_defs.add_called_functions(graph_def, library)
  names = [f.signature.name for f in graph_def.library.function]
  assert names == ['a', 'b', 'for_gpu', 'c', 'gradient']
  assert [g.function_name for g in graph_def.library.gradient] == ['c']
