import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.execution import assertions
from tff_lowrank.execution import graph_defs


def graph_of(function, *specs):
  concrete = tf.function(function).get_concrete_function(*specs)
  return concrete, concrete.graph.as_graph_def()


def operations(graph_def):
  return {node.op for node in graph_defs.all_nodes(graph_def)}


def run_without(function, *arguments):
  """What the graph of a function gives when shapes are asserted no more; and its operations."""
  concrete, graph_def = graph_of(function, *(tf.TensorSpec(None, a.dtype) for a in arguments))
  graph_defs.rename_functions(graph_def)
  assertions.remove_shape_assertions(graph_def)
  feeds, fetches = ([t.name for t in ts] for ts in (concrete.inputs, concrete.outputs))
  specs = [tf.TensorSpec(t.shape, t.dtype) for t in concrete.inputs]
  results = graph_defs.function(graph_def, feeds, specs, fetches)(*map(tf.constant, arguments))
  needed = tf.compat.v1.graph_util.extract_sub_graph(
    graph_def, [t.op.name for t in concrete.outputs]
  )
  return results, {node.op for node in needed.node}


def weighted(x, w):
  # Keras asserts that the weights fit the values, in branches that XLA cannot compile.
  return tf.compat.v1.losses.compute_weighted_loss(x, w, reduction='none')


def test_assertions_on_shapes_go_with_all_that_serves_them(rng):
  x = rng.normal(size=(4, 3)).astype(np.float32)
  w = np.ones([4, 3], np.float32)
  _, before = graph_of(weighted, tf.TensorSpec(None), tf.TensorSpec(None))
  assert {'Assert', 'DenseToDenseSetOperation', 'If'} <= operations(before)
  (found,), found_operations = run_without(weighted, x, w)
  assert not found_operations & {'Assert', 'DenseToDenseSetOperation', 'If', 'StatelessIf'}
  np.testing.assert_allclose(found, weighted(x, w), rtol=1e-6)


def test_assertions_on_values_stay_and_act(rng):
  def function(x):
    with tf.control_dependencies([tf.debugging.assert_positive(x)]):
      return 2 * tf.identity(x)

  _, graph_def = graph_of(function, tf.TensorSpec(None, tf.int32))
  assert not assertions.shape_assertions(graph_def)
  (found,), _ = run_without(function, np.int32([1, 2]))
  np.testing.assert_array_equal(found, [2, 4])
  with pytest.raises(tf.errors.InvalidArgumentError):
    run_without(function, np.int32([1, -2]))


def test_effects_keep_their_order():
  variable = tf.Variable(1.0)

  def function(x):
    variable.assign_add(tf.reduce_sum(x))
    tf.debugging.assert_rank_at_least(x, 1)
    doubled = 2 * variable.read_value()
    variable.assign(0.0)
    return doubled

  _, graph_def = graph_of(function, tf.TensorSpec([2]))
  assertions.remove_shape_assertions(graph_def)
  ops = {node.name: node for node in graph_def.node}
  read = next(n for n in graph_def.node if n.op == 'ReadVariableOp' and 'Read' in n.name)
  assert any(s.startswith('^') and ops[s[1:]].op == 'AssignAddVariableOp' for s in read.input)
