"""Whether a parameter is stable.

D is the change of a parameter's value from one stability check to the next. Its effective
perturbation P is the size of the total change relative to the total size of the changes:
  over a window (eq. 2)           P = |sum D| / sum |D|
  by moving averages (eq. 3)      E <- a E + (1 - a) D,  A <- a A + (1 - a) |D|,  P = |E| / A
P is 1 for a parameter that always changes in one direction, and 0 if its changes cancel out. At
the first check it is 1, so no parameter is stable then unless the threshold is above 1.

Here a parameter is a scalar, or, for comparison, a whole tensor with |.| its Euclidean norm.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tff_lowrank import structures

ZERO_UPDATES = ('unstable', 'stable')

_TIGHTEN_ABOVE = (4, 5)  # A fraction of integers: a float cannot represent 80 % exactly.


class Statistics(NamedTuple):
  """Statistics of the changes of one tensor.

  signed: the E of eq. 3, or the sum in eq. 2. float, shaped as the tensor.
  magnitude: A, or the sum of magnitudes. float, shaped as the tensor, or [] for the whole.
  history: float [window, ...], the last changes, newest first; `()` with moving averages.
  """

  signed: tf.Tensor
  magnitude: tf.Tensor
  history: Any


def _float_type(spec: tf.TensorSpec) -> tf.DType:
  return tf.float64 if spec.dtype == tf.float64 else tf.float32


def magnitudes(change: tf.Tensor, whole: bool, batch_dims: int = 0) -> tf.Tensor:
  """|D| of each scalar, or the norm over all axes after the first `batch_dims`."""
  if not whole:
    return tf.abs(change)
  squares = tf.square(
    tf.cast(change, tf.float64)
  )  # Wide, so that no float32 underflows or overflows.
  axes = list(range(batch_dims, change.shape.rank))
  return tf.cast(tf.sqrt(tf.reduce_sum(squares, axis=axes)), change.dtype)


def initial_statistics(spec: tf.TensorSpec, window: int | None, whole: bool) -> Statistics:
  """The statistics of a tensor that never changed; float32, or float64 for float64 tensors."""
  dtype = _float_type(spec)
  return Statistics(
    signed=tf.zeros(spec.shape, dtype),
    magnitude=tf.zeros([] if whole else spec.shape, dtype),
    history=() if window is None else tf.zeros([window, *spec.shape], dtype),
  )


def update(
  statistics: Statistics,
  change: tf.Tensor,
  active: tf.Tensor,
  *,
  ema_decay: float,
  window: int | None,
  whole: bool,
) -> Statistics:
  """The statistics after a check.

  Args:
    statistics: The statistics before the check.
    change: D, float, shaped as the tensor.
    active: bool, shaped as `statistics.magnitude`. The statistics do not change where this is
      false, or where the change is not finite (averages would never become finite again).
    ema_decay: The a of eq. 3.
    window: The number of changes in the sums of eq. 2, or None for eq. 3.
    whole: Whether the whole tensor is one parameter.
  """
  change = tf.cast(change, statistics.signed.dtype)
  finite = tf.math.is_finite(change)
  moves = active & (tf.reduce_all(finite) if whole else finite)
  if window is None:
    signed = ema_decay * statistics.signed + (1 - ema_decay) * change
    length = magnitudes(change, whole)
    magnitude = ema_decay * statistics.magnitude + (1 - ema_decay) * length
    history = ()
  else:
    history = tf.concat([change[tf.newaxis], statistics.history[:-1]], axis=0)
    history = tf.where(moves, history, statistics.history)
    signed = tf.reduce_sum(history, axis=0)
    magnitude = tf.reduce_sum(magnitudes(history, whole, batch_dims=1), axis=0)
  return Statistics(
    structures.where(moves, signed, statistics.signed),
    structures.where(moves, magnitude, statistics.magnitude),
    history,
  )


def effective_perturbation(
  statistics: Statistics, *, whole: bool, zero_update: str = 'unstable'
) -> tf.Tensor:
  """P, float in [0, 1], shaped as `statistics.magnitude`.

  For a parameter that never changed, it is 1 if `zero_update` is `'unstable'`, else 0.
  """
  length = magnitudes(statistics.signed, whole)
  ratio = tf.minimum(tf.math.divide_no_nan(length, statistics.magnitude), 1.0)
  if zero_update == 'stable':
    return ratio
  return tf.where(statistics.magnitude > 0, ratio, tf.ones_like(ratio))


def is_stable(
  statistics: Statistics, threshold: tf.Tensor, *, whole: bool, zero_update: str
) -> tf.Tensor:
  """bool, shaped as `statistics.magnitude`: whether P is below `threshold`, float32 [].

  For a parameter that never changed, `zero_update` decides. Nothing is stable at threshold 0.
  """
  perturbation = effective_perturbation(statistics, whole=whole, zero_update=zero_update)
  below = perturbation < tf.cast(threshold, perturbation.dtype)
  return below if zero_update == 'stable' else below & (statistics.magnitude > 0)


def tighten(
  threshold: tf.Tensor, num_frozen: tf.Tensor, num_scalars: int, floor: float = 0.0
) -> tf.Tensor:
  """The threshold after a check, float32 []: halved if more than 80 % of all scalars are frozen.

  `num_frozen` is int64 []. The threshold is never halved below `floor`.
  """
  numerator, denominator = _TIGHTEN_ABOVE
  too_loose = num_frozen * denominator > num_scalars * numerator
  return tf.where(too_loose, tf.maximum(threshold / 2, floor), threshold)
