import numpy as np
import tensorflow as tf

from tff_lowrank.execution import tensor_lists


def test_the_gradient_of_a_loop_gets_a_bound():
  def last(x, n):
    return tf.while_loop(
      lambda i, _: i < n, lambda i, y: (i + 1, tf.sin(tf.exp(y))), (0, x), maximum_iterations=n
    )[1]

  @tf.function(input_signature=[tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int32)])
  def gradient(x, n):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = last(x, n)
    return tape.gradient(y, x)

  concrete = gradient.get_concrete_function()
  graph_def = concrete.graph.as_graph_def()
  lists = [n for n in graph_def.node if n.op == 'EmptyTensorList']
  assert lists
  tensor_lists.make_static(graph_def)
  loop = next(n for n in graph_def.node if n.op in ('While', 'StatelessWhile'))
  made = {n.name: n for n in graph_def.node}
  bounded = [made[s] for s in loop.input if s in made and made[s].op == 'EmptyTensorList']
  assert bounded
  names = [t.name for t in concrete.inputs]
  for node in [n for n in graph_def.node if n.op == 'Placeholder']:
    graph_def.node.remove(node)

  def run(x, n):
    return tf.graph_util.import_graph_def(
      graph_def, dict(zip(names, (x, n), strict=True)), [concrete.outputs[0].name]
    )[0]

  x = tf.constant([0.3, 0.7])
  rewritten = tf.function(run, autograph=False, jit_compile=True)
  np.testing.assert_allclose(rewritten(x, 4), gradient(x, tf.constant(4)), rtol=1e-4)


def test_a_loop_that_does_not_plainly_count_is_left_alone():
  @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
  def gradient(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      y = tf.while_loop(lambda y: y < 10.0, lambda y: [y * y + 1.0], [x])[0]
    return tape.gradient(y, x)

  graph_def = gradient.get_concrete_function().graph.as_graph_def()
  before = graph_def.SerializeToString(deterministic=True)
  tensor_lists.make_static(graph_def)
  assert graph_def.SerializeToString(deterministic=True) == before
