import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank.codecs import drive


@pytest.mark.parametrize('size', [1, 2, 8, 64])
def test_hadamard_is_orthonormal(size):
  h = drive.hadamard(size)
  np.testing.assert_allclose(h @ h.T, np.eye(size), atol=1e-12)
  np.testing.assert_allclose(np.abs(h), size**-0.5)


@pytest.mark.parametrize('n, shape', [(1, (1, 1, 1)), (5, (1, 4, 2)), (4096, (1, 64, 64)),
                                      (5000, (2, 64, 64)), (0, (0, 1, 1))])  # fmt: skip
def test_block_shapes(n, shape):
  assert drive.block_shape(n) == shape


@pytest.mark.parametrize('unbiased', [False, True])
def test_follows_the_algorithm(rng, unbiased):
  x = rng.normal(size=29).astype(np.float32)
  codec = codecs.DRIVE(unbiased)
  message = codec.encode((), [x], codec_cases.SEED).message
  sent = message[0]
  # The rotation as one matrix: H of 32 = H of 8 times H of 4 (Kronecker), after signs.
  signs = np.asarray(codec._signs((1, 8, 4), sent.seed)).ravel()
  rotation = np.kron(drive.hadamard(8), drive.hadamard(4)) * signs
  padded = np.pad(np.float64(x), (0, 3))
  rotated = rotation @ padded
  scale = (padded @ padded) / np.abs(rotated).sum() if unbiased else np.abs(rotated).mean()
  expected = rotation.T @ np.where(rotated >= 0, scale, -scale)
  np.testing.assert_allclose(codec.decode((), message)[0], expected[:29], atol=1e-5)
  # The seed, one scale, and a bit for each of 32 numbers.
  assert int(codec.message_bits(message)) == 64 + 32 + 32


def test_error_is_that_of_a_gaussian(rng):
  # For a long vector |Rx|_1 / sqrt(d) is sqrt(2 / pi) |x|, so the least error is 1 - 2 / pi.
  x = (rng.random(8192) < 0.01).astype(np.float32)  # Far from Gaussian itself.
  codec = codecs.DRIVE()
  got = codec.decode((), codec.encode((), [x], codec_cases.SEED).message)[0]
  assert np.sum((got - x) ** 2) / np.sum(x**2) == pytest.approx(1 - 2 / np.pi, abs=0.03)


def test_is_nearly_unbiased_for_long_vectors(rng):
  x = tf.constant(rng.normal(size=512), tf.float32)
  codec = codecs.DRIVE(unbiased=True)
  decode = tf.function(lambda seed: codec.decode((), codec.encode((), [x], seed).message)[0])
  mean = np.mean([decode(tf.constant([0, i])).numpy() for i in range(400)], 0)
  # One message errs by about 0.57 |x|^2; the mean of 400 by a 400th of that, if unbiased.
  assert np.sum((mean - x) ** 2) / np.sum(np.square(x)) < 2 * 0.57 / 400
