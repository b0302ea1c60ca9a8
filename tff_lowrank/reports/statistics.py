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


def is_on_pareto_front(cost: pd.Series, value: pd.Series) -> pd.Series:
  """Whether no other entry costs no more and is worth no less, one of them strictly.

  What costs or is worth NaN is not on the front.
  """
  costs, values = cost.to_numpy(float), value.to_numpy(float)
  as_good = (costs <= costs[:, None]) & (values >= values[:, None])
  better = as_good & ((costs < costs[:, None]) | (values > values[:, None]))
  return pd.Series(~better.any(axis=1) & ~np.isnan(costs + values), index=cost.index)
