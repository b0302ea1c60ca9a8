import collections

import numpy as np
import pytest
import tensorflow as tf

from tests.freezing import numpy_apf
from tff_lowrank import freezing
from tff_lowrank import structures
from tff_lowrank.freezing import freezer


def run(settings, spec, changes):
  """States after each round; what is frozen does not change."""
  step = tf.function(lambda state, change: freezing.next_round(settings, state, change))
  state, states = freezing.initial_state(settings, spec), []
  for change in changes:
    change = [tf.constant(c, s.dtype) for c, s in zip(change, spec, strict=True)]
    zeros = [tf.zeros_like(c) for c in change]
    state = step(state, freezing.hold(freezing.frozen_mask(settings, state), zeros, change))
    states.append(state)
  return states


def masks(settings, states):
  return np.array([freezing.frozen_mask(settings, s)[0].numpy() for s in states])


# One parameter that turns back and forth, computed by hand with a = 1/2 and T = 0.45. U after a
# check is the check's number + 1 + L. A dash: frozen, so nothing is looked at.
# check  D     E                         A                        P       found     L  U
GOLDEN = """
  0      4     2                         2                        1       unstable  0  1
  1     -4    -1                         3                        0.3333  stable    1  3
  2      -    -1                         3                        0.3333  -         1  3
  3      2     0.5                       2.5                      0.2     stable    2  6
  4      -     0.5                       2.5                      0.2     -         2  6
  5      -     0.5                       2.5                      0.2     -         2  6
  6      7     3.75                      4.75                     0.7895  unstable  1  8
  7      -     3.75                      4.75                     0.7895  -         1  8
  8     -8    -2.125                     6.375                    0.3333  stable    2  11
  9      -    -2.125                     6.375                    0.3333  -         2  11
 10      -    -2.125                     6.375                    0.3333  -         2  11
 11     -1    -1.5625                    3.6875                   0.4237  stable    3  15
 12      -    -1.5625                    3.6875                   0.4237  -         3  15
"""


def test_golden_table():
  settings = freezing.Settings(stability_threshold=0.45, ema_decay=0.5)
  rows = [line.split() for line in GOLDEN.strip().splitlines()]
  # Beside it drift, which never is stable, and a parameter that never moves.
  spec = [tf.TensorSpec([1]), tf.TensorSpec([2])]
  changes = [[[0 if row[1] == '-' else float(row[1])], [1, 0]] for row in rows]
  states = run(settings, spec, changes)
  for row, state in zip(rows, states, strict=True):
    check, _, signed, magnitude, perturbation, _, period, wake = row
    kept = state.statistics[0]
    assert kept.signed == float(signed) and kept.magnitude == float(magnitude), check
    got = freezing.measure(settings, state, spec)['effective_perturbation_by_tensor']['mean'][0]
    np.testing.assert_allclose(got, float(perturbation), atol=5e-5)
    assert (state.period[0], state.wake[0]) == (int(period), int(wake)), check
    assert state.round == int(check) + 1 and state.threshold == np.float32(0.45)
    # Drift: E = A = 1 - 2^-(c + 1). Never moved: zeros. Both active for ever.
    expected = 1 - 0.5 ** (int(check) + 1)
    np.testing.assert_array_equal(state.statistics[1].signed, [np.float32(expected), 0])
    np.testing.assert_array_equal(state.statistics[1].magnitude, [np.float32(expected), 0])
    np.testing.assert_array_equal(state.period[1], [0, 0])
    np.testing.assert_array_equal(state.wake[1], [int(check) + 1] * 2)


@pytest.mark.parametrize(
  'control, checks',
  [
    ('aimd', [0, 2, 5, 9, 14, 20]),
    ('additive', [0, 2, 5, 9, 14, 20]),
    ('multiplicative', [0, 2, 5, 10, 19]),
    ('fixed', [0, 11, 22]),
    ('permanent', [0]),
  ],
)
def test_checks_at_which_an_always_stable_parameter_is_awake(control, checks):
  # After check c with period L: frozen in intervals c + 1 .. c + L, active again in c + 1 + L.
  settings = freezing.Settings(stability_threshold=2.0, threshold_floor=2.0, control=control)
  states = run(settings, [tf.TensorSpec([1])], [[[1.0]]] * 25)
  awake = [0] + [c + 1 for c in range(24) if not masks(settings, states)[c, 0]]
  assert awake == checks


@pytest.mark.parametrize('control', freezing.control.CONTROLS)
@pytest.mark.parametrize('zero_update', ['unstable', 'stable'])
def test_equals_the_equations(rng, control, zero_update):
  spec = [tf.TensorSpec([4, 5]), tf.TensorSpec([]), tf.TensorSpec([0, 3]), tf.TensorSpec([10])]
  settings = freezing.Settings(
    stability_threshold=0.3, ema_decay=0.8, control=control, zero_update=zero_update
  )
  reference = numpy_apf.NumpyApf(31, 0.3, 0.8, control, zero_update == 'stable')
  state = freezing.initial_state(settings, spec)
  drift = rng.normal(size=31) * (rng.random(31) > 0.3)
  noise = rng.random(31) > 0.2  # The rest moves by its drift alone, or never.
  for _ in range(40):
    change = (drift + 3 * noise * rng.normal(size=31)).astype(np.float32)
    change[reference.frozen] = 0
    reference.check(change)
    parts = np.split(change, [20, 21, 21])
    state = freezing.next_round(
      settings, state, [np.reshape(p, s.shape) for p, s in zip(parts, spec, strict=True)]
    )

    def flat(tensors):
      return np.concatenate([np.ravel(t) for t in tensors])

    np.testing.assert_allclose(flat([s.signed for s in state.statistics]), reference.E, atol=1e-5)
    np.testing.assert_allclose(
      flat([s.magnitude for s in state.statistics]), reference.A, atol=1e-5
    )
    got_frozen = flat(freezing.frozen_mask(settings, state))
    np.testing.assert_array_equal(got_frozen, reference.frozen)
    if control != 'permanent':
      np.testing.assert_array_equal(flat(state.period), reference.L)
      np.testing.assert_array_equal(flat(state.wake), reference.U)
    assert state.threshold == np.float32(reference.T)
  assert reference.frozen.any()


def test_threshold_halves_when_more_than_80_percent_are_frozen_at_every_check():
  settings = freezing.Settings(stability_threshold=2.0, control='permanent')
  spec = [tf.TensorSpec([5])]
  for moving, thresholds in ((4, [2, 2, 2]), (5, [1, 0.5, 0.25])):
    states = run(settings, spec, [[[1.0] * moving + [0.0] * (5 - moving)]] * 3)
    assert [float(s.threshold) for s in states] == thresholds
    fraction = freezing.measure(settings, states[-1], spec)['frozen_fraction']
    np.testing.assert_allclose(fraction, moving / 5)


def test_all_frozen_goes_on():
  settings = freezing.Settings(stability_threshold=2.0, control='fixed')
  states = run(settings, [tf.TensorSpec([3])], [[[1.0, 2.0, 3.0]]] * 25)
  # Frozen after check 0 for ten intervals; at check 11 the threshold is 2 / 2^11: none stable.
  assert masks(settings, states).all(axis=1).tolist() == [True] * 10 + [False] * 15
  assert states[-1].round == 25


def test_wakes_after_checks_were_skipped():
  settings = freezing.Settings(stability_threshold=2.0, control='fixed')
  state = run(settings, [tf.TensorSpec([2])], [[[1.0, 1.0]]])[0]
  assert freezing.frozen_mask(settings, state)[0].numpy().all()
  late = state._replace(round=tf.constant(500))  # U is long past, and no check was at U.
  assert not freezing.frozen_mask(settings, late)[0].numpy().any()
  after = freezing.next_round(settings, late, [tf.constant([1.0, -1.0])])
  assert after.period[0].numpy().tolist() == [0, 10]


def test_checks_every_so_many_rounds_see_the_whole_interval(rng):
  changes = [[rng.integers(-4, 5, 6)] for _ in range(24)]  # Sums of integers are exact.
  spec = [tf.TensorSpec([6])]
  sparse = freezing.Settings(stability_threshold=0.6, ema_decay=0.5, check_every=3)
  states = run(sparse, spec, changes)
  assert not np.any(states[-1].change[0])
  frozen = masks(sparse, states)
  for start in range(2, 24, 3):  # Constant from a check to the next.
    assert (frozen[start : start + 3] == frozen[start]).all()
  assert not frozen[:2].any() and frozen.any()
  reference = numpy_apf.NumpyApf(6, 0.6, 0.5)
  for i in range(0, 24, 3):
    total = sum(c[0] for c in changes[i : i + 3])
    reference.check(np.where(reference.frozen, 0, total))
    np.testing.assert_array_equal(frozen[i + 2], reference.frozen)
    np.testing.assert_allclose(states[i + 2].statistics[0].signed, reference.E, rtol=1e-6)


def test_aggressive_lengthens_only_what_was_active(rng):
  settings = freezing.Settings(
    stability_threshold=0.3, ema_decay=0.5, aggressive='one_round', seed=5
  )
  spec = [tf.TensorSpec([50]), tf.TensorSpec([50])]
  reference = numpy_apf.NumpyApf(100, 0.3, 0.5)
  state = freezing.initial_state(settings, spec)
  for check in range(20):
    change = rng.normal(size=100).astype(np.float32)
    change[reference.frozen] = 0
    extra = [
      freezing.aggressive.extra_period('one_round', 5, tf.constant(check), i, spec[i].shape)
      for i in range(2)
    ]
    reference.check(change, np.concatenate(extra))
    state = freezing.next_round(settings, state, np.split(change, 2))
    np.testing.assert_array_equal(np.concatenate(state.wake), reference.U)
    np.testing.assert_array_equal(np.concatenate(state.period), reference.L)
  assert 0.3 < freezing.measure(settings, state, spec)['frozen_fraction'] < 1


def test_tensor_granularity_decides_once_a_tensor():
  settings = freezing.Settings(stability_threshold=0.5, ema_decay=0.5, granularity='tensor')
  spec = [tf.TensorSpec([2, 3]), tf.TensorSpec([4])]
  # The first tensor turns back whole, the second only in one of four equal coordinates.
  changes = [[np.full([2, 3], (-1.0) ** k), [1, 1, 1, (-1.0) ** k]] for k in range(2)]
  state = run(settings, spec, changes)[-1]
  assert [bool(m) for m in freezing.frozen_mask(settings, state)] == [True, False]
  assert state.wake[0].shape == []
  measured = freezing.measure(settings, state, spec)
  np.testing.assert_allclose(measured['frozen_fraction'], 6 / 10)
  np.testing.assert_array_equal(measured['frozen_fraction_by_tensor'], [1, 0])
  kept, value = ([tf.fill(s.shape, x) for s in spec] for x in (1.0, 2.0))
  held = freezing.hold(freezing.frozen_mask(settings, state), kept, value)
  assert (held[0].numpy() == 1).all() and (held[1].numpy() == 2).all()


def test_measurements_by_hand():
  settings = freezing.Settings()
  spec = [tf.TensorSpec([4]), tf.TensorSpec([0]), tf.TensorSpec([2100])]
  state = freezing.initial_state(settings, spec)
  period = [np.int32([0, 1, 2, 9]), np.zeros([0], np.int32), np.arange(2100, dtype=np.int32)]
  state = state._replace(period=[tf.constant(p) for p in period])
  measured = freezing.measure(settings, state, spec)
  lengths = measured['freezing_period_by_tensor']
  np.testing.assert_allclose(lengths['mean'], [3, 0, 1049.5], rtol=1e-6)
  # Of four values the one at place round(3 q); of 2,100 every third.
  np.testing.assert_array_equal(lengths['q05'], [0, 0, 3 * round(0.05 * 699)])
  np.testing.assert_array_equal(lengths['q50'], [2, 0, 3 * round(0.5 * 699)])
  np.testing.assert_array_equal(lengths['q95'], [9, 0, 3 * round(0.95 * 699)])
  np.testing.assert_allclose(measured['freezing_period'], (12 + 2100 * 1049.5) / 2104, rtol=1e-6)
  assert measured['effective_perturbation'] == 1  # Nothing ever moved.
  assert measured['stability_threshold'] == np.float32(0.05)


def test_hold_keeps_structure():
  value = collections.OrderedDict(b=tf.constant([1.0, 2.0]), a=tf.constant(3.0))
  kept = collections.OrderedDict(b=tf.constant([-1.0, -2.0]), a=tf.constant(-3.0))
  mask = [tf.constant(False), tf.constant([False, True])]  # tf.nest sorts keys.
  held = freezing.hold(mask, kept, value)
  assert isinstance(held, collections.OrderedDict)
  np.testing.assert_array_equal(held['b'], [1, -2])
  assert held['a'] == 3


def test_hold_slots_finds_slots_at_any_depth():
  weights = (tf.zeros([2]), tf.zeros([]))
  mask = [tf.constant([True, False]), tf.constant(True)]

  def state(x, factored):
    return collections.OrderedDict(
      learning_rate=0.1 * x,
      step=x,
      moment=(tf.fill([2], float(x)), tf.constant(float(x))),
      inner=collections.OrderedDict(
        moment=(tf.fill([2], float(x)), tf.constant(float(x))),
        factored=(tf.fill([factored], float(x)), tf.constant(float(x))),
      ),
    )

  held = freezer.hold_slots(mask, weights, state(1, 3), state(2, 3))
  assert (held['learning_rate'], held['step']) == (0.2, 2)
  for slot in (held['moment'], held['inner']['moment']):
    np.testing.assert_array_equal(slot[0], [1, 2])
    assert slot[1] == 1
  np.testing.assert_array_equal(held['inner']['factored'][0], [2, 2, 2])


def test_state_is_six_numbers_a_parameter_at_most():
  spec = [tf.TensorSpec([10])]
  assert structures.num_elements(freezing.initial_state(freezing.Settings(), spec)) == 42
  sparse = freezing.Settings(check_every=2)
  assert structures.num_elements(freezing.initial_state(sparse, spec)) == 52


def test_refuses_integers():
  with pytest.raises(TypeError, match='Only floats can be frozen, found a tensor of int32'):
    freezing.initial_state(freezing.Settings(), [tf.TensorSpec([2], tf.int32)])


def test_a_change_that_is_not_finite_leaves_no_trace():
  settings = freezing.Settings(stability_threshold=0.5)
  spec = [tf.TensorSpec([2])]
  state = run(settings, spec, [[[1.0, 1.0]], [[np.nan, np.inf]]])[-1]
  for s in state.statistics:
    assert np.isfinite(s.signed).all() and np.isfinite(s.magnitude).all()
