"""Means over seeds, their intervals, and what is best in two ways at once."""

import numpy as np
import pandas as pd
from scipy import stats


def half_width(std: pd.Series, count: pd.Series) -> pd.Series:
  """Half of the 95 % confidence interval of a mean, by Student's t; NaN of fewer than two.

  `std` is the sample's standard deviation (over `count` - 1).
  """
  count = np.where(count > 1, count, np.nan)
  return stats.t.ppf(0.975, count - 1) * std / np.sqrt(count)


def _half_width_of(values: np.ndarray) -> float:
  """Of the mean of `values`; 0 if there are too few to tell."""
  return float(half_width(values.std(ddof=1), len(values))) if len(values) > 1 else 0.0


def difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
  """The ends of the 95 % interval of how much more `first` is than `second`, on average.

  Both have a value for each seed, or NaN. Where they share two seeds or more it is the interval of
  the mean difference by seed, by Student's t; otherwise that of the difference of their means,
  whose half widths are added as squares. A half width of one value alone counts as 0.
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
  """Whether no other entry costs no more and is worth no less, one of them strictly.

  What costs or is worth NaN is not on the front.
  """
  costs, values = cost.to_numpy(float), value.to_numpy(float)
  as_good = (costs <= costs[:, None]) & (values >= values[:, None])
  better = as_good & ((costs < costs[:, None]) | (values > values[:, None]))
  return pd.Series(~better.any(axis=1) & ~np.isnan(costs + values), index=cost.index)


def pareto_front(cost: pd.Series, values: pd.DataFrame) -> pd.Series:
  """Whether each entry is on the front of low cost and high value: 'yes', 'no' or 'open'.

  An entry is compared with every other that costs no more, by the 95 % interval of the
  `difference` of their values. It is off the front ('no') if one of them is worth at least as much
  over all of the interval, and costs less or is worth more; on it ('yes') if each of them is worth
  less over all of the interval, or is its equal in both; otherwise the seeds do not decide
  ('open'). With one seed the intervals are single numbers, and this is `is_on_pareto_front`.

  Args:
    cost: Of each entry; one with NaN is not on the front.
    values: [entries, seeds], NaN where there is no such seed.
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
