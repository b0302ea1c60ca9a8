import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import freezing
from tff_lowrank.freezing import null_noise


def test_probability_of_stability_without_freezing():
  at = np.array([1, 2, 5, 10, 20, 50, 100, 200])
  got = null_noise.simulate(200, freezes=False, num_parameters=20_000)[at - 1]
  known = [0, 0.03, 0.06, 0.10, 0.14, 0.22, 0.30, 0.38]
  # Known to two digits; the standard error of the estimate is at most 0.0035.
  np.testing.assert_allclose(got, known, atol=0.005 + 3 * 0.0035)


def test_frozen_fraction_of_noise():
  got = null_noise.simulate(1000, num_parameters=5000)[[99, 299, 999]]
  np.testing.assert_allclose(got, [0.47, 0.72, 0.85], atol=0.005 + 3 * 0.007)


def test_is_what_freezing_does_with_noise():
  settings = freezing.Settings(threshold_floor=0.05)  # The threshold stays as it is.
  rng, size = np.random.default_rng(0), 20_000
  spec = [tf.TensorSpec([size])]
  state, fractions = freezing.initial_state(settings, spec), []
  for _ in range(60):
    frozen = freezing.frozen_mask(settings, state)[0].numpy()
    change = np.where(frozen, 0, rng.normal(size=size)).astype(np.float32)
    state = freezing.next_round(settings, state, [change])
    fractions.append(float(freezing.measure(settings, state, spec)['frozen_fraction']))
  np.testing.assert_allclose(fractions, null_noise.simulate(60, num_parameters=size), atol=0.01)


@pytest.mark.parametrize('freezes', [True, False])
def test_threshold_zero_is_never_reached(freezes):
  assert not null_noise.simulate(30, threshold=0, freezes=freezes, num_parameters=100).any()
