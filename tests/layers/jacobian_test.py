"""The Jacobian correction against the paper's formulas written in NumPy, and its limits."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import jacobian

SHAPE, RANK, STEP = (6, 5), 3, 0.1


@pytest.fixture
def factors(rng):
  shapes = factorization_lib.Hadamard(rank=RANK).shapes(SHAPE)
  return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def test_virtual_step_is_the_papers_expanded_formula(factors, rng):
  """W' expanded by powers of eta, from J_X1 = (J_W * W2) Y1 and its like."""
  f, j = factors, rng.normal(size=SHAPE)
  # Here kernels are [inputs, outputs], so y takes the place of the rows.
  w1, w2 = f['y1'] @ f['x1'].T, f['y2'] @ f['x2'].T
  j1, j2 = j * w2, j * w1
  jy1, jx1, jy2, jx2 = j1 @ f['x1'], j1.T @ f['y1'], j2 @ f['x2'], j2.T @ f['y2']
  a = jy1 @ f['x1'].T + f['y1'] @ jx1.T  # First order in eta of W1, with a minus sign.
  b = jy2 @ f['x2'].T + f['y2'] @ jx2.T
  c, d = jy1 @ jx1.T, jy2 @ jx2.T  # Second order.
  e = STEP
  expanded = (
    w1 * w2
    - e * (a * w2 + w1 * b)
    + e**2 * (c * w2 + a * b + w1 * d)
    - e**3 * (c * b + a * d)
    + e**4 * c * d
  )
  moved = jacobian.virtual_step(factorization_lib.Hadamard(rank=RANK), f, j, STEP)
  np.testing.assert_allclose(moved, expanded, rtol=1e-10)
  penalty = jacobian.penalty(factorization_lib.Hadamard(rank=RANK), f, j, STEP)
  np.testing.assert_allclose(penalty, np.sum((expanded - (w1 * w2 - e * j)) ** 2) / 2, rtol=1e-10)


def test_virtual_step_with_tanh(factors, rng):
  """The gradients get the factor 1 - tanh^2."""
  f, j = factors, rng.normal(size=SHAPE)
  t1, t2 = np.tanh(f['y1'] @ f['x1'].T), np.tanh(f['y2'] @ f['x2'].T)
  j1, j2 = j * t2 * (1 - t1**2), j * t1 * (1 - t2**2)
  y1, x1 = f['y1'] - STEP * j1 @ f['x1'], f['x1'] - STEP * j1.T @ f['y1']
  y2, x2 = f['y2'] - STEP * j2 @ f['x2'], f['x2'] - STEP * j2.T @ f['y2']
  moved = jacobian.virtual_step(factorization_lib.Hadamard(rank=RANK, tanh=True), f, j, STEP)
  np.testing.assert_allclose(moved, np.tanh(y1 @ x1.T) * np.tanh(y2 @ x2.T), rtol=1e-10)


def test_virtual_step_is_a_step_of_sgd(rng):
  """On a layer: the factors literally updated by an optimiser on a loss."""
  x, target = rng.normal(size=(8, 9)), rng.normal(size=(8, 4))
  for make in (
    lambda: layers.FedParaDense(4, rank=2, use_bias=False, dtype='float64'),
    lambda: layers.FedParaDense(4, rank=2, personal=True, use_bias=False, dtype='float64'),
    lambda: layers.LowRankDense(4, rank=2, use_bias=False, dtype='float64'),
    lambda: layers.AdapterDense(4, rank=2, use_bias=False, dtype='float64'),
  ):
    layer = make()
    layer(x)
    kernel = layer.factored_kernels['kernel']
    before = layer.kernel.numpy()
    j = x.T @ (x @ before - target)
    moved = jacobian.virtual_step(kernel.factorization, kernel.factors, tf.constant(j), 0.01)
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum((layer(x) - target) ** 2) / 2
    gradients = tape.gradient(loss, layer.trainable_variables)
    for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
      variable.assign_sub(0.01 * gradient)
    np.testing.assert_allclose(moved, layer.kernel, rtol=1e-10)


def test_penalty_vanishes_with_the_step(factors, rng):
  factorization, j = factorization_lib.Hadamard(rank=RANK), rng.normal(size=SHAPE)
  penalties = [jacobian.penalty(factorization, factors, j, 10.0**-k).numpy() for k in range(2, 6)]
  # Of second order in eta.
  np.testing.assert_allclose(np.array(penalties[:-1]) / penalties[1:], 100, rtol=0.2)
  assert jacobian.penalty(factorization, factors, j, 0.0) == 0


def test_corrected_loss_of_a_model(rng):
  model = tf.keras.Sequential(
    [
      tf.keras.layers.InputLayer((6, 6, 2)),
      layers.FedParaConv2D(4, 3, rank=2, activation='relu'),
      tf.keras.layers.Flatten(),
      layers.FedParaDense(3, rank=2),
    ]
  )
  x = rng.normal(size=(5, 6, 6, 2)).astype(np.float32)

  def plain():
    return tf.reduce_mean(model(x) ** 2)

  def corrected(strength):
    return jacobian.corrected_loss(plain, step_size=0.1, strength=strength)

  def penalties(step_size):
    """From the factors' own gradients, and the kernels' through a model of plain layers."""
    composed = layers.compose(model)
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(composed(x) ** 2)
    kernels = [layer.kernel for layer in composed.layers if layer.weights]
    total = 0.0
    factored = [layer for layer in model.layers if layer.weights]
    for layer, j in zip(factored, tape.gradient(loss, kernels), strict=True):
      k = layer.factored_kernels['kernel']
      moved = jacobian.virtual_step(k.factorization, k.factors, j, step_size)
      total += np.sum((moved - (layer.kernel - step_size * j)) ** 2) / 2
    return total

  for run in (corrected, tf.function(corrected)):
    for strength in (0.5, 10.0):
      expected = plain() + strength * penalties(0.1)
      np.testing.assert_allclose(run(strength), expected, rtol=1e-4)
  assert corrected(0) == plain()


def test_a_kernel_used_twice_has_one_gradient(rng):
  layer = layers.FedParaDense(3, rank=2, use_bias=False)
  a, b = (rng.normal(size=(4, 6)).astype(np.float32) for _ in range(2))

  def plain():
    return tf.reduce_mean(layer(a) ** 2) + tf.reduce_mean(layer(b))

  layer.build((None, 6))
  k = layer.factored_kernels['kernel']
  f = {name: v.numpy().astype(np.float64) for name, v in k.factors.items()}
  w1, w2 = f['y1'] @ f['x1'].T, f['y2'] @ f['x2'].T
  j = 2 * a.T @ (a @ (w1 * w2)) / 12 + b.T @ np.ones((4, 3)) / 12
  step = dict(
    x1=(j * w2).T @ f['y1'], y1=(j * w2) @ f['x1'], x2=(j * w1).T @ f['y2'], y2=(j * w1) @ f['x2']
  )
  m = {name: f[name] - 0.1 * step[name] for name in f}
  moved = (m['y1'] @ m['x1'].T) * (m['y2'] @ m['x2'].T)
  penalty = np.sum((moved - (w1 * w2 - 0.1 * j)) ** 2) / 2
  for run in (jacobian.corrected_loss, tf.function(jacobian.corrected_loss)):
    corrected = run(plain, step_size=0.1, strength=100.0)
    np.testing.assert_allclose(corrected, plain() + 100 * penalty, rtol=1e-4)


def test_corrected_loss_can_be_minimised(rng):
  tf.keras.utils.set_random_seed(0)
  model = tf.keras.Sequential([tf.keras.layers.InputLayer((6,)), layers.FedParaDense(3, rank=2)])
  x, y = rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(20, 3))
  losses = []
  for _ in range(50):
    with tf.GradientTape() as tape:
      loss = jacobian.corrected_loss(lambda: tf.reduce_mean((model(x) - y) ** 2), step_size=0.1)
    for v, g in zip(
      model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
    ):
      v.assign_sub(0.1 * g)
    losses.append(float(loss))
  assert losses[-1] < 0.8 * losses[0]


def test_refusals():
  dense = tf.keras.layers.Dense(3)
  x = tf.ones([2, 4])
  with pytest.raises(ValueError, match='does not depend on any factorised kernel'):
    jacobian.corrected_loss(lambda: tf.reduce_sum(dense(x)), step_size=0.1)
  recomputing = layers.FedParaDense(3, rank=2, recompute=True)
  recomputing(x)
  with pytest.raises(ValueError, match='recompute=False'):
    jacobian.corrected_loss(lambda: tf.reduce_sum(recomputing(x)), step_size=0.1)
  with pytest.raises(ValueError, match='`strength` must be in'):
    jacobian.corrected_loss(lambda: tf.reduce_sum(dense(x)), step_size=0.1, strength=-1)
