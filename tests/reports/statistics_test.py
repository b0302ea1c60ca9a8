import numpy as np
import pandas as pd
import pytest

from tff_lowrank.reports import statistics


def test_intervals_by_the_table_of_students_t():
  # Two-sided 95 %: 12.706 for 1 degree of freedom, 2.776 for 4.
  widths = statistics.half_width(pd.Series([1.0, 3.0, 1.0]), pd.Series([2, 5, 1]))
  assert widths[0] == pytest.approx(12.706 / 2**0.5, rel=1e-4)
  assert widths[1] == pytest.approx(2.776 * 3 / 5**0.5, rel=1e-3)
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
