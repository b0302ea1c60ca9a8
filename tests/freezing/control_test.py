import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.freezing import control


def trace(name, outcomes, start=0):
  period, periods = tf.constant([start]), []
  for outcome in outcomes:
    period = control.next_period(name, period, tf.constant([outcome == 'S']))
    periods.append(int(period[0]))
  return periods


@pytest.mark.parametrize(
  'name, expected',
  [
    ('aimd', [1, 2, 3, 4, 5, 2, 1, 2, 1]),
    ('additive', [1, 2, 3, 4, 5, 4, 3, 4, 3]),
    ('multiplicative', [1, 2, 4, 8, 16, 8, 4, 8, 4]),
    ('fixed', [10, 10, 10, 10, 10, 0, 0, 10, 0]),
  ],
)
def test_traces(name, expected):
  assert trace(name, 'SSSSSUUSU') == expected


def test_periods_never_fall_below_zero():
  for name in control.CONTROLS:
    assert trace(name, 'UUU') == [0, 0, 0]


def test_permanent_is_for_ever():
  assert trace('permanent', 'US') == [0, control.MAX_PERIOD]


def test_doubling_does_not_overflow():
  assert trace('multiplicative', 'S' * 40)[-1] == control.MAX_PERIOD
  # As the last check number plus one plus the period must not either.
  assert np.int64(control.MAX_PERIOD) + 2**30 - 1 <= np.iinfo(np.int32).max
