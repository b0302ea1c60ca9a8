"""Dropout whose masks depend only on a random key, so that runs are repeatable.

keras.layers.Dropout keeps the state of its random generator in a variable. A client has no such
state between its steps. Here each step has a key, and the masks are a function of the key.
"""

from collections.abc import Iterator
import contextlib
import contextvars
import itertools
from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import factored

# SplitMix64: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
_STEP = 0x9E3779B97F4A7C15
_FACTORS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


class _Draws:
  """The source of masks. number: the number of masks drawn so far, during graph construction."""

  def __init__(self, key: tf.Tensor):
    self._key = tf.cast(key, tf.uint64)
    self._number = itertools.count()

  def bits(self, shape: tf.Tensor) -> tf.Tensor:
    """uint32 of `shape`, uniform; different in each call."""
    count = tf.reduce_prod(tf.cast(shape, tf.int64))
    first = tf.constant(next(self._number) << 32, tf.uint64)
    return tf.reshape(random_bits(self._key, first + tf.cast(tf.range(count), tf.uint64)), shape)


_draws: contextvars.ContextVar[_Draws | None] = contextvars.ContextVar('draws', default=None)


def random_bits(key: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
  """uint32 shaped as `counter`, uniform: the upper halves of SplitMix64's numbers.

  Uses integer operations, which give the same bits in TensorFlow and in XLA, on any device, and
  batched over clients. TensorFlow's own random operations do not guarantee all of this.

  Args:
    key: uint64 [], the start of the generator.
    counter: uint64, the indices of the numbers.
  """
  shift = tf.bitwise.right_shift
  x = key + counter * tf.constant(_STEP, tf.uint64)
  for bits, factor in _FACTORS:
    x = tf.bitwise.bitwise_xor(x, shift(x, tf.constant(bits, tf.uint64)))
    x *= tf.constant(factor, tf.uint64)
  x = tf.bitwise.bitwise_xor(x, shift(x, tf.constant(31, tf.uint64)))
  return tf.cast(shift(x, tf.constant(32, tf.uint64)), tf.uint32)


@contextlib.contextmanager
def dropout_key(key: tf.Tensor) -> Iterator[None]:
  """Inside, `StatelessDropout` draws its masks from `key`, int64 [].

  Each call of such a layer has a different mask, by the order of the calls. Every `with` block
  starts to count again, so use a different key in each training step.
  """
  token = _draws.set(_Draws(key))
  try:
    yield
  finally:
    _draws.reset(token)


@factored.serializable
class StatelessDropout(tf.keras.layers.Layer):
  """keras.layers.Dropout whose masks depend only on the key of `dropout_key`.

  In training each input is set to 0 with probability `rate`, and the others are multiplied by
  `1 / (1 - rate)`. The model of `tasks.Task.build_model` takes a key with each batch, which
  `simulation.batches.ClientBatches(..., dropout_keys=True)` adds.

  Raises:
    TypeError: If `rate` is not a number.
    ValueError: If it is not in [0, 1); in training, if there is no key.
  """

  def __init__(self, rate: float, **kwargs: Any):
    super().__init__(**kwargs)
    checks.check_in_range('rate', rate, 0, 1)
    if rate == 1:
      raise ValueError('`rate` must be below 1, found 1.')
    self.rate = rate
    self.supports_masking = True

  def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    if not training or not self.rate:
      return inputs
    draws = _draws.get()
    if draws is None:
      raise ValueError(
        f'Layer {self.name!r} needs a key for its mask in training; train the model of '
        '`tff_lowrank.tasks.Task.build_model`, or call yours inside '
        '`tff_lowrank.layers.dropout_key(key)`.'
      )
    limit = min(round(self.rate * 2**32), 2**32 - 1)
    kept = draws.bits(tf.shape(inputs)) >= tf.constant(limit, tf.uint32)
    return tf.where(kept, inputs * (1 / (1 - self.rate)), tf.zeros_like(inputs))

  def compute_output_shape(self, input_shape: Any) -> Any:
    return input_shape

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | dict(rate=self.rate)
