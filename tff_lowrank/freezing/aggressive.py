"""Aggressive APF: parameters are also frozen at random, as in dropout.

For over-parameterised models. At each check c, a random number of check intervals is added to the
freezing period of every parameter that was active:
  `'growing'`    u uniform in [0, 100); floor(u) intervals if u < c / 20, so none before c = 21,
                 then more and more often and for longer (APF++ in the paper's code)
  `'one_round'`  one interval with probability 1/2 (APF# in the later code, which also drew for
                 frozen parameters)
"""

import tensorflow as tf

VARIANTS = ('none', 'growing', 'one_round')


def uniform(seed: int, check: tf.Tensor, index: int, shape: tf.TensorShape) -> tf.Tensor:
  """float32 in [0, 1), a function of the seed, the check, the tensor and the position only.

  Drawn as integers by an explicit algorithm, since random floats differ between TensorFlow and
  XLA.

  Args:
    seed: The seed of the experiment.
    check: int32 [], the number of the check.
    index: The index of the tensor in the model.
    shape: The static shape of the result.
  """
  key = tf.random.experimental.stateless_fold_in(
    tf.stack([tf.constant(seed, tf.int64), tf.cast(check, tf.int64)]), index, alg='philox'
  )
  bits = tf.random.stateless_uniform(shape, key, None, None, tf.uint32, alg='philox')
  return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def extra_period(
  variant: str, seed: int, check: tf.Tensor, index: int, shape: tf.TensorShape
) -> tf.Tensor:
  """int32 of `shape`: the number of extra check intervals for which each parameter is frozen.

  `variant` is one of `VARIANTS`; the other arguments are those of `uniform`.
  """
  if variant == 'none':
    return tf.zeros(shape, tf.int32)
  drawn = uniform(seed, check, index, shape)
  if variant == 'one_round':
    return tf.cast(drawn < 0.5, tf.int32)
  drawn = 100 * drawn
  return tf.where(drawn < tf.cast(check, tf.float32) / 20, tf.cast(tf.floor(drawn), tf.int32), 0)
