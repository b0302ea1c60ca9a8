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
