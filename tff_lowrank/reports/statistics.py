"""Means over seeds, their confidence intervals, and Pareto fronts."""

import numpy as np
import pandas as pd
from scipy import stats


def half_width(std: pd.Series, count: pd.Series) -> pd.Series:
  """Half of the 95 % confidence interval of a mean, by Student's t; NaN for fewer than two values.

  `std` is the sample standard deviation (with `count` - 1).
  """
  count = np.where(count > 1, count, np.nan)
  return stats.t.ppf(0.975, count - 1) * std / np.sqrt(count)


def _half_width_of(values: np.ndarray) -> float:
  """The half width for the mean of `values`; 0 for fewer than two values."""
  return float(half_width(values.std(ddof=1), len(values))) if len(values) > 1 else 0.0


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
  """The ends of the 95 % interval of the mean difference `first` minus `second`.

  Both have a value for each seed, or NaN. If they share at least two seeds, this is the interval
  of the mean difference by seed, by Student's t. Otherwise it is that of the difference of their
  means; its half width is the root of the sum of their squared half widths. The half width for a
  single value is 0.
  """
  by_seed = first - second
  by_seed = by_seed[~np.isnan(by_seed)]
  if len(by_seed) > 1:
    middle, half = by_seed.mean(), _half_width_of(by_seed)
  else:
    first, second = first[~np.isnan(first)], second[~np.isnan(second)]
    middle = first.mean() - second.mean()
    half = np.hypot(_half_width_of(first), _half_width_of(second))
  return middle - half, middle + half


def is_on_pareto_front(cost: pd.Series, value: pd.Series) -> pd.Series:
  """Whether no other entry has at most its cost and at least its value, one of them strictly.

  An entry with NaN is not on the front.
  """
  costs, values = cost.to_numpy(float), value.to_numpy(float)
  as_good = (costs <= costs[:, None]) & (values >= values[:, None])
  better = as_good & ((costs < costs[:, None]) | (values > values[:, None]))
  return pd.Series(~better.any(axis=1) & ~np.isnan(costs + values), index=cost.index)


def pareto_front(cost: pd.Series, values: pd.DataFrame) -> pd.Series:
  """Whether each entry is on the Pareto front (low cost, high value): 'yes', 'no' or 'open'.

  An entry is compared with every other entry of the same or lower cost, by the 95 % interval of
  the `difference` of their values. The result is 'no' if one of them has at least its value over
  the whole interval, and a lower cost or a higher value; 'yes' if each of them has a lower value
  over the whole interval, or equals it in both cost and value; otherwise 'open': the seeds do not
  decide. With one seed the intervals are single numbers, and this is `is_on_pareto_front`.

  Args:
    cost: The cost of each entry; an entry with NaN is not on the front.
    values: [entries, seeds], NaN for a missing seed.
  """
  found = {}
  for name, own in zip(cost.index, values.to_numpy(float), strict=True):
    states = set()
    for other, others in zip(cost.index, values.to_numpy(float), strict=True):
      if other == name or not cost[other] <= cost[name]:
        continue
      low, high = difference(others, own)
      is_cheaper = cost[other] < cost[name]
      if low >= 0 and (is_cheaper or low > 0):
        states.add('no')
      elif high >= 0 and (is_cheaper or low < 0):
        states.add('open')
    unknown = 'no' if np.isnan(cost[name]) else 'yes'
    found[name] = next((s for s in ('no', 'open') if s in states), unknown)
  return pd.Series(found).reindex(cost.index)
