import gc

import numpy as np
import tensorflow as tf

from tff_lowrank.execution import native


class Owner:
  pass


def test_registered_functions_live_as_long_as_their_owner():
  @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
  def triple(x):
    return 3 * x

  definition = triple.get_concrete_function().function_def
  graph_def = tf.compat.v1.GraphDef()
  graph_def.library.function.add().CopyFrom(definition)
  graph_def.library.function[0].signature.name = 'tff_lowrank_test_triple'
  owner = Owner()
  native.register_functions(owner, graph_def.library)
  known = native.eager_context.context().has_function
  assert known('tff_lowrank_test_triple')
  del owner
  gc.collect()
  assert not known('tff_lowrank_test_triple')


def test_xla_program_keeps_64_bits():
  run = lambda a, b: [a + b, tf.cast(b, tf.float64) / 3]  # noqa: E731
  traced, _ = native.trace(run, [tf.TensorSpec([2], tf.int64)] * 2)
  program = native.XlaProgram(traced.module, native.xla_devices('cpu')[0])
  a, b = np.array([2**40, 1]), np.array([2, 3])
  total, third = program([program.put(a), program.put(b)])
  np.testing.assert_array_equal(np.asarray(total), a + b)
  assert np.asarray(third).dtype == np.float64


def test_full_precision_is_asked_for_in_the_program():
  traced, _ = native.trace(lambda a: [a @ a], [tf.TensorSpec([2, 2])])
  assert 'HIGHEST' not in traced.module
  assert traced.with_full_precision().module.count('HIGHEST') == 2


def test_inlining_keeps_functional_control_flow():
  def f(x):
    return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, 2 * y), (0, x))[1]

  inner = tf.function(f)
  concrete = tf.function(lambda x: inner(x) + 1).get_concrete_function(
    tf.TensorSpec([], tf.float32)
  )
  graph_def = native.inline_functions(
    concrete.graph.as_graph_def(), [concrete.inputs[0].name], [concrete.outputs[0].name], ''
  )
  types = {node.op for node in graph_def.node}
  assert types & {'While', 'StatelessWhile'} and 'NextIteration' not in types
  assert not any('PartitionedCall' in op_type for op_type in types)


def test_no_devices_of_a_kind_that_is_not_there():
  assert native.xla_devices('cpu')
  assert native.xla_devices('no such kind') == []
