import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.codecs import least_squares


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('count', [1, 2, 3, 4, 5, 8, 16])
def test_solves_as_numpy_does(rng, count, compiled):
  solve = tf.function(least_squares.solve, jit_compile=True) if compiled else least_squares.solve
  vectors, x = rng.normal(size=(40, count)), rng.normal(size=40)
  expected = np.linalg.lstsq(vectors, x, rcond=None)[0]
  found = solve(tf.constant(vectors.T @ vectors), tf.constant(vectors.T @ x))
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('compiled', [False, True])
@pytest.mark.parametrize('scale', [1e-60, 1.0, 1e60])
def test_of_vectors_that_depend_on_each_other_takes_the_shortest_solution(rng, scale, compiled):
  solve = tf.function(least_squares.solve, jit_compile=True) if compiled else least_squares.solve
  vectors, x = rng.normal(size=(40, 5)), rng.normal(size=40)
  vectors[:, 1], vectors[:, 2], vectors[:, 4] = vectors[:, 0], 0, vectors[:, 0] - vectors[:, 3]
  gram, products = scale * vectors.T @ vectors, scale * vectors.T @ x
  expected = np.linalg.pinv(gram, rcond=1e-12, hermitian=True) @ products
  found = solve(tf.constant(gram), tf.constant(products)).numpy()
  np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
  assert found[2] == 0


def test_cuts_off_at_a_part_of_1e_12_of_the_largest():
  for small, kept in ((2e-12, True), (0.5e-12, False)):
    gram = tf.constant(np.diag([1.0, small]))
    found = least_squares.solve(gram, tf.constant([3.0, 5 * small], tf.float64))
    np.testing.assert_allclose(found, [3, 5 if kept else 0])


def test_nothing_to_solve_is_zero():
  for count in (1, 3):
    zeros = tf.zeros([count], tf.float64)
    np.testing.assert_array_equal(
      least_squares.solve(tf.zeros([count, count], tf.float64), zeros), 0
    )


@pytest.mark.parametrize('count', [2, 7, 16])
def test_eigenvectors_are_exact_under_xla_too(rng, count):
  a = rng.normal(size=(count, count))
  a = a + a.T
  values, vectors = tf.function(least_squares.eigenvectors, jit_compile=True)(tf.constant(a))
  np.testing.assert_allclose(vectors.numpy().T @ vectors, np.eye(count), atol=1e-13)
  np.testing.assert_allclose(a @ vectors, vectors * values, atol=1e-12 * count)


def test_equal_diagonals_turn_by_45_degrees():
  values, _ = least_squares.eigenvectors(tf.constant([[2.0, 1.0], [1.0, 2.0]], tf.float64))
  np.testing.assert_allclose(sorted(values.numpy()), [1, 3])


def test_projects_on_several_blocks_of_tensors(rng):
  vectors = [[np.float32(rng.normal(size=(4, 3))), np.float32(rng.normal(size=5))] for _ in '123']
  x = [2 * a - 3 * c for a, _, c in zip(*vectors, strict=True)]
  coefficients, error = least_squares.project(x, vectors)
  np.testing.assert_allclose(coefficients, [2, 0, -3], atol=1e-6)
  assert error < 1e-12
  for a, b in zip(least_squares.combine(coefficients, vectors), x, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
