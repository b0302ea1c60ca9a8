"""How long a stable parameter stays frozen.

A freezing period L is a number of check intervals. APF's control is that of TCP: additive increase,
multiplicative decrease. Its paper compares it with the others.
"""

import tensorflow as tf

CONTROLS = ('aimd', 'additive', 'multiplicative', 'fixed', 'permanent')

FIXED_PERIOD = 10
# A period of this many checks means for ever; check numbers plus this still fit int32.
MAX_PERIOD = 2**30


def _after_stable(control: str, period: tf.Tensor) -> tf.Tensor:
  if control == 'multiplicative':
    return tf.maximum(2 * period, 1)
  if control == 'fixed':
    return tf.ones_like(period) * FIXED_PERIOD
  if control == 'permanent':
    return tf.ones_like(period) * MAX_PERIOD
  return period + 1


def _after_unstable(control: str, period: tf.Tensor) -> tf.Tensor:
  if control == 'additive':
    return tf.maximum(period - 1, 0)
  if control in ('fixed', 'permanent'):
    return tf.zeros_like(period)
  return period // 2


def next_period(control: str, period: tf.Tensor, stable: tf.Tensor) -> tf.Tensor:
  """The freezing period after a check.

  stable, unstable by `control`: `'aimd'` L + 1, L // 2; `'additive'` L + 1, L - 1 down to 0;
  `'multiplicative'` 2 L from 1 on, L // 2; `'fixed'` 10, 0; `'permanent'` for ever, 0.

  Args:
    control: One of `CONTROLS`.
    period: int32, the period before the check.
    stable: bool, shaped as `period`, the result of the check.

  Returns:
    int32, shaped as `period`, at most `MAX_PERIOD`.
  """
  # Capped before it grows, so that it cannot overflow.
  period = tf.minimum(period, MAX_PERIOD // 2)
  return tf.where(stable, _after_stable(control, period), _after_unstable(control, period))
