"""Fits against what is known exactly, and against each other."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.layers import factorization as lib
from tff_lowrank.layers import fit as fit_lib


def composed(factorization, factors, shape):
  return tf.reshape(factorization.compose(factors), shape).numpy()


def test_low_rank_matrix_is_the_truncated_decomposition(rng):
  kernel = rng.normal(size=(40, 30))
  factorization = lib.LowRank(rank=8)
  factors, error = fit_lib.fit(kernel, factorization)
  tail = np.linalg.svd(kernel)[1][8:]
  np.testing.assert_allclose(error, np.linalg.norm(tail) / np.linalg.norm(kernel), rtol=1e-5)
  residual = composed(factorization, factors, kernel.shape) - kernel
  np.testing.assert_allclose(np.linalg.norm(residual), np.linalg.norm(tail), rtol=1e-5)


@pytest.mark.parametrize('shape', [(3, 3, 12, 10), (4, 12, 10)])
def test_tucker_kernels_are_found_again(shape, rng):
  factorization = lib.LowRank(rank=3, form='tucker')
  source = {name: rng.normal(size=s) for name, s in factorization.shapes(shape).items()}
  kernel = 0.02 * factorization.compose(source).numpy()
  factors, error = fit_lib.fit(kernel, factorization)
  assert error < 1e-4
  np.testing.assert_allclose(composed(factorization, factors, shape), kernel, atol=1e-5)


@pytest.mark.parametrize('shape, form', [((60, 50), 'matrix'), ((3, 3, 24, 20), 'tucker')])
@pytest.mark.parametrize('options', [dict(), dict(personal=True), dict(tanh=True)], ids=str)
def test_hadamard_fits_random_kernels_better_than_low_rank(shape, form, options, rng):
  """At equal budget; a kernel of normal entries has no low rank to find."""
  kernel = 0.05 * rng.normal(size=shape)
  factorization = lib.Hadamard(rank=6, form=form, **options)
  factors, error = fit_lib.fit(kernel, factorization)
  low_rank = lib.LowRank(rank=12 if form == 'matrix' else 8, form=form)
  assert error < fit_lib.fit(kernel, low_rank)[1] < 1
  residual = composed(factorization, factors, shape) - kernel
  np.testing.assert_allclose(error, np.linalg.norm(residual) / np.linalg.norm(kernel), rtol=1e-4)
  assert error < 0.98 * fit_lib.fit(kernel, factorization, iterations=0)[1]


def test_full_rank_allows_a_nearly_exact_fit(rng):
  kernel = rng.normal(size=(12, 10))
  assert fit_lib.fit(kernel, lib.Hadamard(rank=6), iterations=3000)[1] < 0.01


def test_factors_are_of_a_common_size(rng):
  """So that one learning rate suits all of them."""
  kernel = 0.01 * rng.normal(size=(60, 50))
  sizes = [x.std() for x in fit_lib.fit(kernel, lib.Hadamard(rank=6))[0].values()]
  assert max(sizes) < 3 * min(sizes)


def test_ranks_beyond_the_kernels(rng):
  # Tucker rank 6 with 3 inputs: surplus columns start small, not at zero, where they would stay.
  kernel = rng.normal(size=(3, 3, 3, 16))
  factors, error = fit_lib.fit(kernel, lib.LowRank(rank=6, form='tucker'), iterations=0)
  assert all(np.abs(x).min() > 0 for x in factors.values())
  assert fit_lib.fit(kernel, lib.LowRank(rank=6, form='tucker'))[1] <= error


@pytest.mark.parametrize(
  'factorization',
  [
    lib.Hadamard(rank=2),
    lib.Hadamard(rank=2, personal=True),
    lib.Hadamard(rank=2, tanh=True),
    lib.Hadamard(rank=2, form='tucker'),
    lib.LowRank(rank=2),
    lib.LowRank(rank=2, form='tucker'),
  ],
  ids=str,
)
def test_zero_kernels_are_met_and_can_train(factorization, rng):
  shape = (3, 2, 5, 4) if factorization.form == 'tucker' else (5, 4)
  factors, error = fit_lib.fit(np.zeros(shape), factorization)
  factors = {name: tf.Variable(value) for name, value in factors.items()}
  target = tf.constant(0.3 * rng.normal(size=shape), tf.float32)
  losses = []
  for _ in range(200):
    with tf.GradientTape() as tape:
      kernel = tf.reshape(factorization.compose(factors), shape)
      loss = tf.reduce_sum((kernel - target) ** 2)
    losses.append(float(loss))
    gradients = tape.gradient(loss, factors)
    for name, factor in factors.items():
      factor.assign_sub(0.02 * gradients[name])
  assert error == 0
  assert losses[0] == pytest.approx(float(tf.reduce_sum(target**2)), rel=1e-6)
  assert losses[-1] < 0.9 * losses[0]


def test_determinism(rng):
  kernel = rng.normal(size=(9, 8))
  one, two = (fit_lib.fit(kernel, lib.Hadamard(rank=2, personal=True))[0] for _ in range(2))
  for name in one:
    np.testing.assert_array_equal(one[name], two[name])


def test_refuses_bad_arguments(rng):
  with pytest.raises(TypeError, match='`factorization` must be `Hadamard` or `LowRank`'):
    fit_lib.fit(np.ones((3, 3)), lib.Adapter(rank=1))
  with pytest.raises(ValueError, match='must be finite'):
    fit_lib.fit(np.full((3, 3), np.nan), lib.Hadamard(rank=1))
  with pytest.raises(ValueError, match='`iterations` must be at least 0'):
    fit_lib.fit(np.ones((3, 3)), lib.Hadamard(rank=1), iterations=-1)
