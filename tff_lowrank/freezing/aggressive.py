"""Aggressive APF: parameters are also frozen at random, as in dropout.

For models with far more parameters than they need. At each check c, every parameter that was
active may stay frozen longer than its period says, by a random number of check intervals:
  `'growing'`    u uniform in [0, 100); floor(u) intervals if u < c / 20, so nothing before
                 c = 21, then ever more often and ever longer (the paper's code, APF++)
  `'one_round'`  one interval with probability 1/2 (the later code, APF#, which drew for frozen
                 parameters too)
"""

import tensorflow as tf

VARIANTS = ('none', 'growing', 'one_round')


def uniform(seed: int, check: tf.Tensor, index: int, shape: tf.TensorShape) -> tf.Tensor:
  """float32 in [0, 1), a pure function of the seed, the check, the tensor and the position.

  Drawn as integers by a named algorithm: random floats differ between TensorFlow and XLA.

  Args:
    seed: Of the experiment.
    check: int32 [], the check's number.
    index: Which tensor of the model.
    shape: Static, of the result.
  """
  key = tf.random.experimental.stateless_fold_in(
    tf.stack([tf.constant(seed, tf.int64), tf.cast(check, tf.int64)]), index, alg='philox'
  )
  bits = tf.random.stateless_uniform(shape, key, None, None, tf.uint32, alg='philox')
  return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def extra_period(
  variant: str, seed: int, check: tf.Tensor, index: int, shape: tf.TensorShape
) -> tf.Tensor:
  """int32 of `shape`: by how many check intervals each parameter stays frozen longer.

  `variant` is one of `VARIANTS`; the other arguments are those of `uniform`.
  """
  if variant == 'none':
    return tf.zeros(shape, tf.int32)
  drawn = uniform(seed, check, index, shape)
  if variant == 'one_round':
    return tf.cast(drawn < 0.5, tf.int32)
  drawn = 100 * drawn
  return tf.where(drawn < tf.cast(check, tf.float32) / 20, tf.cast(tf.floor(drawn), tf.int32), 0)
