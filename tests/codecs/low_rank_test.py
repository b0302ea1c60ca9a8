import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank.codecs import low_rank


def matrix(rng, shape=(9, 6)):
  return rng.normal(size=shape).astype(np.float32)


def decode(codec, value, memory=()):
  message = codec.encode(memory, value, codec_cases.SEED).message
  return [np.asarray(x) for x in codec.decode(memory, message)], message


@pytest.mark.parametrize('rank', [1, 2, 3])
def test_truncated_svd_is_the_best_of_its_rank(rng, rank):
  x = matrix(rng)
  (got,), message = decode(codecs.TruncatedSVD(rank), [x])
  s = np.linalg.svd(x, compute_uv=False)
  assert np.linalg.matrix_rank(got, tol=1e-4) == rank
  # Eckart-Young: the error is the tail of the singular values.
  np.testing.assert_allclose(np.linalg.norm(x - got), np.sqrt((s[rank:] ** 2).sum()), rtol=1e-4)
  assert int(codecs.TruncatedSVD(rank).message_bits(message)) == 32 * rank * (9 + 6)
  assert int(codecs.TruncatedSVD(rank).official_units(message)) == rank * 15


def test_vectors_and_what_would_grow_go_dense(rng):
  value = [matrix(rng, (7,)), matrix(rng, (7, 1)), matrix(rng, (2, 3)), matrix(rng, ())]
  got, message = decode(codecs.TruncatedSVD(2), value)
  for x, y in zip(value, got, strict=True):
    np.testing.assert_array_equal(x, y)
  assert int(codecs.TruncatedSVD(2).message_bits(message)) == 32 * (7 + 7 + 6 + 1)


def test_convolution_kernels_are_rows_by_output_channels(rng):
  kernel = matrix(rng, (3, 3, 2, 8))
  (got,), _ = decode(codecs.TruncatedSVD(1), [kernel])
  u, s, v = np.linalg.svd(kernel.reshape(18, 8), full_matrices=False)
  expected = s[0] * np.outer(u[:, 0], v[0]).reshape(kernel.shape)
  np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize('budget', [1, 2, 3])
def test_atom_probabilities_minimise_the_variance(rng, budget):
  s = np.sort(rng.random(5))[::-1] ** 3
  p = low_rank.atom_probabilities(tf.constant(s, tf.float64), float(budget)).numpy()
  assert p.sum() == pytest.approx(budget)
  assert (p > 0).all() and (p <= 1).all()
  variance = (s**2 * (1 / p - 1)).sum()
  # No small move of probability between two atoms is better.
  for i, j in itertools.permutations(range(5), 2):
    moved = p.copy()
    moved[i] += 1e-4
    moved[j] -= 1e-4
    if moved.max() <= 1 and moved.min() > 0:
      assert (s**2 * (1 / moved - 1)).sum() >= variance - 1e-12


def test_atomo_sends_as_many_atoms_as_asked_on_average(rng):
  codec, x = codecs.Atomo(2), tf.constant(matrix(rng, (12, 10)))
  count = tf.function(lambda seed: codec.encode((), [x], seed).message[0].count)
  counts = [int(count(tf.constant([0, i]))) for i in range(500)]
  assert np.mean(counts) == pytest.approx(2, abs=5 * np.std(counts) / np.sqrt(500))
  (_,), message = decode(codec, [np.asarray(x)])
  sent = int(message[0].count)
  # The number of atoms, 0 to 10, takes 4 bits.
  assert int(codec.message_bits(message)) == 4 + 32 * sent * 22
  assert int(codec.official_units(message)) == sent * 22


def reference_power_sgd(m, q):
  """One step from the algorithm, with Gram-Schmidt."""
  p = m @ q
  for i in range(p.shape[1]):
    for j in range(i):
      p[:, i] -= (p[:, i] @ p[:, j]) * p[:, j]
    p[:, i] /= np.linalg.norm(p[:, i])
  return p @ (m.T @ p).T, m.T @ p


def test_power_sgd_follows_the_algorithm_and_warms_up(rng):
  codec, m = codecs.PowerSGD(2), matrix(rng)
  memory = codec.initial_memory(structures.specs([m]))
  q, errors = np.float64(memory[0]), []
  for _ in range(15):
    encoded = codec.encode(memory, [m], codec_cases.SEED)
    got = codec.decode(memory, encoded.message)[0]
    expected, q = reference_power_sgd(np.float64(m), q)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    errors.append(np.linalg.norm(m - got))
    memory = encoded.memory
  best = np.sqrt((np.linalg.svd(m, compute_uv=False)[2:] ** 2).sum())
  assert errors[0] > 1.05 * best
  assert errors[-1] == pytest.approx(best, rel=1e-2)


def test_power_sgd_survives_a_zero_update(rng):
  codec, m = codecs.PowerSGD(1), matrix(rng)
  memory = codec.initial_memory(structures.specs([m]))
  memory = codec.encode(memory, [0 * m], codec_cases.SEED).memory
  message = codec.encode(memory, [m], codec_cases.SEED).message
  assert np.linalg.norm(codec.decode(memory, message)[0]) > 0


def test_refuses_impossible_ranks():
  for kind in (codecs.Atomo, codecs.TruncatedSVD, codecs.PowerSGD):
    with pytest.raises(ValueError, match='`rank` must be at least 1'):
      kind(0)
