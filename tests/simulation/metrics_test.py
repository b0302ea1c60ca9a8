import collections

import numpy as np

from tff_lowrank.simulation import metrics


def test_nested_metrics_become_a_row():
  nested = collections.OrderedDict(
    a=1, b=collections.OrderedDict(c=np.float32(0.5), d=np.array([1, 2])), e=(), f=[True]
  )
  assert dict(metrics.flatten(nested)) == {'a': 1, 'b/c': 0.5, 'b/d/0': 1, 'b/d/1': 2, 'f/0': True}
