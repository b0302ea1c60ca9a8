"""Recomputed kernels: the same numbers, eagerly and in graphs, and nothing merged by XLA."""

import functools
import re

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import cases
from tff_lowrank import layers
from tff_lowrank.layers import kernel as kernel_lib


def loss_and_gradients(model, x):
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(model(x) ** 2)
  gradients = tape.gradient(loss, model.trainable_variables)
  return loss, [tf.convert_to_tensor(g) for g in gradients]


def gradients_of(model, x):
  return loss_and_gradients(model, x)[1]


@pytest.mark.each_once
@pytest.mark.parametrize('plain', cases.PLAIN)
@pytest.mark.parametrize('kind', ['FedPara', 'FedPara personal', 'LowRank', 'Adapter'])
def test_recomputing_changes_no_gradient(kind, plain, rng):
  layer, shape = cases.make(kind, plain)
  model = cases.model_of(layer, shape)
  cases.randomize(layer, rng)
  twin = cases.model_of(cases.make(kind, plain, recompute=True)[0], shape)
  twin.set_weights(model.get_weights())
  x = cases.inputs(shape, rng)
  loss, gradients = loss_and_gradients(model, x)
  for run in (loss_and_gradients, tf.function(loss_and_gradients)):
    other_loss, other_gradients = run(twin, x)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    for one, other in zip(gradients, other_gradients, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_gradient_of_the_input_passes(rng):
  x = tf.constant(rng.normal(size=(3, 9)))
  for recompute in (False, True):
    layer = layers.FedParaDense(4, rank=2, recompute=recompute, dtype='float64')
    layer(x)
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(layer(x) ** 2)
    gradient = tape.gradient(loss, x)
    expected = 2 * (x @ layer.kernel) @ tf.transpose(layer.kernel)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10)


def test_finite_differences_through_a_whole_layer(rng):
  """In float64, with strides, and the kernel recomputed."""
  layer = layers.FedParaConv2D(4, 3, strides=2, rank=2, recompute=True, dtype='float64')
  x = tf.constant(rng.normal(size=(2, 7, 7, 3)))
  layer(x)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(tf.sin(layer(x)))
  for variable, gradient in zip(
    layer.trainable_variables, tape.gradient(loss, layer.trainable_variables), strict=True
  ):
    start, direction = variable.numpy(), rng.normal(size=variable.shape)
    values = []
    for sign in (1, -1):
      variable.assign(start + sign * 1e-6 * direction)
      values.append(float(tf.reduce_sum(tf.sin(layer(x)))))
    variable.assign(start)
    slope = (values[0] - values[1]) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6, atol=1e-8)


def test_second_derivatives(rng):
  x = tf.constant(rng.normal(size=(3, 9)))
  results = []
  for recompute in (False, True):
    layer = layers.FedParaDense(4, rank=2, recompute=recompute, dtype='float64')
    layer(x)
    weights = results[0][0] if results else layer.get_weights()
    layer.set_weights(weights)
    with tf.GradientTape() as outer:
      with tf.GradientTape() as inner:
        loss = tf.reduce_sum(layer(x) ** 3)
      gradients = inner.gradient(loss, layer.trainable_variables)
      norm = tf.add_n([tf.reduce_sum(g**2) for g in gradients])
    results.append((weights, outer.gradient(norm, layer.trainable_variables)))
  for one, other in zip(results[0][1], results[1][1], strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_xla_does_not_merge_the_recomputation_with_the_way_forward():
  # Forward W1, W2, x W; backward the inputs' gradient (not the first layer's), dW, and two
  # products for each term: 3 + 3 + 1 + 2 * (1 + 4) = 17 for two layers; recomputing adds W1 and W2.
  counts = []
  for recompute in (False, True):
    model = tf.keras.Sequential([tf.keras.layers.InputLayer((64,))])
    for _ in range(2):
      model.add(layers.FedParaDense(64, rank=4, recompute=recompute, activation='relu'))
    step = tf.function(functools.partial(gradients_of, model), jit_compile=True)
    text = step.experimental_get_compiler_ir(tf.zeros([8, 64]))(stage='optimized_hlo')
    counts.append(len(re.findall(r' dot\(|custom-call\(', text)))
  assert counts == [17, 21]


def test_upstream_values_do_not_change_the_recomputed_kernel():
  x = tf.constant([[1.0, -0.0], [np.inf, 2.0]])
  for first in (0.0, -3.0, np.inf):
    later = kernel_lib._after(tf.constant([[first, 1.0]]), x)
    np.testing.assert_array_equal(later, x)
  np.testing.assert_array_equal(kernel_lib._after(tf.zeros([0, 3]), x), x)
  assert kernel_lib._after(tf.zeros([1]), tf.zeros([2], tf.float16)).dtype == tf.float16


def test_recording_lists_each_composition(rng):
  layer = layers.FedParaDense(4, rank=2)
  x = rng.normal(size=(2, 3)).astype(np.float32)
  layer(x)
  with kernel_lib.recorded() as uses:
    layer(x)
    with kernel_lib.recorded() as inner:
      layer(x)
    layer(x)
  layer(x)
  assert (len(uses), len(inner)) == (2, 1)
  np.testing.assert_array_equal(uses[0].kernel, layer.kernel)
  assert list(uses[0].factors) == ['x1', 'y1', 'x2', 'y2']


def test_rows_of_many_shapes(rng):
  layer = layers.FedParaEmbedding(11, 6, rank=2)
  layer(tf.constant([0]))
  for indices in (3, [3, 3, 0], [[1, 2], [10, 0]], np.zeros((2, 0), np.int64)):
    np.testing.assert_allclose(
      layer(tf.constant(indices)), tf.gather(layer.embeddings, indices), rtol=1e-5, atol=1e-7
    )
