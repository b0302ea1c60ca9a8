import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.freezing import stability

SPEC = tf.TensorSpec([3])
YES = tf.constant([True, True, True])


def run(changes, *, window=None, whole=False, decay=0.5, active=YES):
  statistics = stability.initial_statistics(SPEC, window, whole)
  for change in changes:
    statistics = stability.update(
      statistics,
      tf.constant(change, tf.float32),
      tf.constant(True) if whole else active,
      ema_decay=decay,
      window=window,
      whole=whole,
    )
  return statistics


def perturbation(statistics, whole=False, **settings):
  return stability.effective_perturbation(statistics, whole=whole, **settings).numpy()


def test_moving_averages_by_hand():
  # Drift, turning back half-way, never moved; a = 1/2.
  statistics = run([[1, 4, 0], [1, -4, 0]])
  np.testing.assert_array_equal(statistics.signed, [0.75, -1, 0])
  np.testing.assert_array_equal(statistics.magnitude, [0.75, 3, 0])
  np.testing.assert_allclose(perturbation(statistics), [1, 1 / 3, 1], rtol=1e-6)
  np.testing.assert_allclose(
    perturbation(statistics, zero_update='stable'), [1, 1 / 3, 0], rtol=1e-6
  )


def test_window_by_hand():
  # Of three changes the last two count: |1 - 4| / 5; before the window is full, all there are.
  changes = [[9, 1, 0], [-4, 1, 0], [1, 1, 0]]
  np.testing.assert_allclose(perturbation(run(changes[:1], window=2)), [1, 1, 1])
  np.testing.assert_allclose(perturbation(run(changes, window=2)), [3 / 5, 1, 1], rtol=1e-6)
  assert run(changes, window=2).history.shape == [2, 3]


def test_a_tensor_as_one_parameter_by_hand():
  # By averages: E = (-1, 2, 0), norm 2.236; A = (5 / 2 + 5) / 2 ... with D of norms 5 and 5:
  # E = D1 / 4 + D2 / 2 = (0.75 - 1.5, 1 + 2, 0), A = 5 / 4 + 5 / 2.
  statistics = run([[3, 4, 0], [-3, 4, 0]], whole=True)
  np.testing.assert_allclose(statistics.signed, [-0.75, 3, 0])
  np.testing.assert_allclose(statistics.magnitude, 3.75)
  np.testing.assert_allclose(perturbation(statistics, True), np.hypot(0.75, 3) / 3.75, rtol=1e-6)
  # By the window of eq. 2: |(0, 8, 0)| / (5 + 5).
  windowed = run([[3, 4, 0], [-3, 4, 0]], whole=True, window=5)
  np.testing.assert_allclose(perturbation(windowed, True), 0.8, rtol=1e-6)


@pytest.mark.parametrize('window', [None, 3])
def test_what_is_not_active_or_not_finite_keeps_its_statistics(window):
  before = run([[1, 2, 3]], window=window)
  after = stability.update(
    before,
    tf.constant([5, np.nan, np.inf]),
    tf.constant([False, True, True]),
    ema_decay=0.5,
    window=window,
    whole=False,
  )
  for a, b in zip(tf.nest.flatten(before), tf.nest.flatten(after), strict=True):
    np.testing.assert_array_equal(a, b)


def test_always_in_zero_to_one_and_blind_to_scale(rng):
  changes = rng.normal(size=(200, 3)).astype(np.float32)
  for window, whole in ((None, False), (7, False), (None, True)):
    for last in (1, 3, 200):
      p = perturbation(run(changes[:last], window=window, whole=whole, decay=0.99), whole)
      assert (p >= 0).all() and (p <= 1).all()
    # Powers of two scale floats exactly.
    scaled = perturbation(run(changes * 2.0**-20, window=window, whole=whole, decay=0.99), whole)
    np.testing.assert_array_equal(p, scaled)


def test_alternating_changes_have_the_limit_of_the_series():
  statistics = run([[(-1) ** k, 1, 2 * (-1) ** k] for k in range(3000)], decay=0.99)
  limit = 0.01 / 1.99  # (1 - a) / (1 + a)
  np.testing.assert_allclose(perturbation(statistics), [limit, 1, limit], rtol=2e-3)


def test_the_first_check_finds_nothing_stable_up_to_threshold_one(rng):
  for window in (None, 4):
    statistics = run(rng.normal(size=(1, 3)), window=window, decay=0.99)
    np.testing.assert_array_equal(perturbation(statistics), 1)
    for threshold, expected in ((1.0, False), (1.01, True)):
      stable = stability.is_stable(
        statistics, tf.constant(threshold), whole=False, zero_update='unstable'
      )
      assert (stable.numpy() == expected).all()


@pytest.mark.parametrize(
  'zero_update, threshold, expected',
  [
    ('unstable', 0.05, False),
    ('unstable', 2.0, False),
    ('stable', 0.05, True),
    ('stable', 0, False),
  ],
)
def test_a_parameter_that_never_moved(zero_update, threshold, expected):
  statistics = run([[0, 0, 0]] * 3)
  stable = stability.is_stable(
    statistics, tf.constant(threshold, tf.float32), whole=False, zero_update=zero_update
  )
  assert (stable.numpy() == expected).all()


@pytest.mark.parametrize(
  'frozen, size, halved',
  [(8, 10, False), (9, 10, True), (4, 5, False), (0, 0, False), (8_000_001, 10_000_000, True),
   (8_000_000, 10_000_000, False)],
)  # fmt: skip
def test_tightens_above_80_percent_only(frozen, size, halved):
  got = stability.tighten(tf.constant(0.05), tf.constant(frozen, tf.int64), size)
  assert got == np.float32(0.025 if halved else 0.05)


def test_tightening_ends_at_the_floor():
  threshold = tf.constant(0.05)
  for _ in range(5):
    threshold = stability.tighten(threshold, tf.constant(1, tf.int64), 1, floor=0.02)
  assert threshold == np.float32(0.02)


def test_wide_and_narrow_floats():
  for dtype, kept in ((tf.float64, tf.float64), (tf.bfloat16, tf.float32), (tf.half, tf.float32)):
    statistics = stability.initial_statistics(tf.TensorSpec([2], dtype), None, False)
    statistics = stability.update(
      statistics, tf.ones([2], dtype), tf.constant([True, True]), ema_decay=0.99, window=None,
      whole=False,
    )  # fmt: skip
    assert statistics.signed.dtype == kept
    np.testing.assert_array_equal(perturbation(statistics), 1)
