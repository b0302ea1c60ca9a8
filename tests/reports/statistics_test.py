import numpy as np
import pandas as pd
import pytest

from tff_lowrank.reports import statistics

# Two-sided 95 % of Student's t, from a printed table, by degrees of freedom.
T = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645}


def test_intervals_by_the_table_of_students_t():
  widths = statistics.half_width(pd.Series([1.0, 3.0, 1.0]), pd.Series([2, 5, 1]))
  assert widths[0] == pytest.approx(T[1] / 2**0.5, rel=1e-4)
  assert widths[1] == pytest.approx(T[4] * 3 / 5**0.5, rel=1e-4)
  assert np.isnan(widths[2])


@pytest.mark.parametrize(
  'costs, values, expected',
  [
    ([1, 2, 3], [1, 2, 3], [True, True, True]),
    ([1, 2, 3], [3, 2, 1], [True, False, False]),
    ([1, 1, 2], [5, 5, 5], [True, True, False]),  # Equals do not beat each other.
    ([1, 1], [5, 6], [False, True]),
    ([np.nan, 2, 3], [9, np.nan, 1], [False, False, True]),
  ],
)
def test_pareto_front_by_hand(costs, values, expected):
  front = statistics.is_on_pareto_front(pd.Series(costs), pd.Series(values))
  assert front.tolist() == expected
  # With one seed the front by intervals is the same.
  cost = pd.Series(costs).where(pd.Series(values).notna())
  states = statistics.pareto_front(cost, pd.DataFrame({1: values}, dtype=float))
  assert (states == 'yes').tolist() == expected and 'open' not in set(states)


def test_pareto_front_against_the_definition(rng):
  costs, values = rng.integers(0, 8, size=(2, 40))
  front = statistics.is_on_pareto_front(pd.Series(costs), pd.Series(values))
  for i in range(40):
    beaten = any(
      costs[j] <= costs[i]
      and values[j] >= values[i]
      and (costs[j], values[j]) != (costs[i], values[i])
      for j in range(40)
    )
    assert front[i] == (not beaten)


def test_differences_by_hand():
  nan = np.nan
  # By seed: 0.1, 0.2 and 0.3, of standard deviation 0.1.
  low, high = statistics.difference(np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.5, 0.6]))
  assert [low, high] == pytest.approx([0.2 - T[2] * 0.1 / 3**0.5, 0.2 + T[2] * 0.1 / 3**0.5], 1e-4)
  # Two seeds are shared; the third value of each counts for nothing.
  low, high = statistics.difference(np.array([0.5, 0.7, nan, 9]), np.array([0.4, 0.4, 7, nan]))
  half = T[1] * np.std([0.1, 0.3], ddof=1) / 2**0.5
  assert [low, high] == pytest.approx([0.2 - half, 0.2 + half], rel=1e-4)
  # None is shared: both intervals, as squares.
  low, high = statistics.difference(np.array([0.5, 0.7, nan, nan]), np.array([nan, nan, 0.2, 0.6]))
  half = np.hypot(T[1] * 0.1, T[1] * 0.2)
  assert [low, high] == pytest.approx([0.2 - half, 0.2 + half], rel=1e-4)
  assert statistics.difference(np.array([0.5]), np.array([0.4])) == pytest.approx((0.1, 0.1))


def expected_state(i, costs, values):
  """The rule of the front once more, for methods that share all seeds."""
  seeds, worse = values.shape[1], []
  for j in range(len(costs)):
    if j == i or costs[j] > costs[i]:
      continue
    by_seed = values[j] - values[i]
    half = T[seeds - 1] * by_seed.std(ddof=1) / seeds**0.5
    if by_seed.mean() - half >= 0 and (costs[j] < costs[i] or by_seed.mean() - half > 0):
      return 'no'
    is_twin = costs[j] == costs[i] and (by_seed == 0).all()
    worse.append(is_twin or by_seed.mean() + half < 0)
  return 'yes' if all(worse) else 'open'


@pytest.mark.parametrize('seeds', [2, 3, 5])
def test_front_by_intervals_against_its_rule(rng, seeds):
  costs = rng.integers(0, 20, size=30)
  values = rng.normal(size=(30, 1)) + 0.2 * rng.normal(size=(30, seeds))
  values[1], costs[1] = values[0], costs[0]  # Twins.
  found = statistics.pareto_front(pd.Series(costs), pd.DataFrame(values))
  assert found.tolist() == [expected_state(i, costs, values) for i in range(30)]
  assert set(found) >= {'no', 'open'}


def test_noise_takes_nothing_off_the_front():
  index = ['cheap', 'dear']
  noisy = pd.DataFrame([[0.70, 0.74, 0.72], [0.73, 0.70, 0.71]], index)  # On average 0.67 less.
  cost = pd.Series([1.0, 2.0], index)
  assert statistics.pareto_front(cost, noisy).tolist() == ['yes', 'open']
  shift = np.array([[0], [0.1]])
  assert statistics.pareto_front(cost, noisy - shift).tolist() == ['yes', 'no']
  assert statistics.pareto_front(cost, noisy + shift).tolist() == ['yes', 'yes']
