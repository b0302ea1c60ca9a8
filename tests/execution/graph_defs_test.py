import numpy as np
import tensorflow as tf

from tff_lowrank.execution import graph_defs
from tff_lowrank.execution import native


def test_select_instead_of_branching():
  def choose(condition, x):
    return tf.cond(condition, lambda: (x + 1, x * 10), lambda: (x - 1, x * 0))

  concrete = tf.function(choose).get_concrete_function(
    tf.TensorSpec([], tf.bool), tf.TensorSpec([], tf.float32)
  )
  graph_def = concrete.graph.as_graph_def()
  assert any(node.op == 'StatelessIf' for node in graph_def.node)
  assert graph_defs.select_instead_of_branching(graph_def)
  assert not any('If' in node.op for node in graph_def.node)
  feeds = [t.name for t in concrete.inputs]
  fetches = [t.name for t in concrete.outputs]
  graph_def = native.inline_functions(graph_def, feeds, fetches, '')
  specs = [tf.TensorSpec(t.shape, t.dtype) for t in concrete.inputs]
  function = graph_defs.function(graph_def, feeds, specs, fetches)
  for condition in (True, False):
    found = function(tf.constant(condition), tf.constant(3.0))
    wanted = choose(tf.constant(condition), tf.constant(3.0))
    np.testing.assert_array_equal(found, wanted)
  assert not graph_defs.select_instead_of_branching(graph_def)


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
