import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank.codecs import per_tensor


def test_private_seeds_differ_by_value_and_by_seed():
  seed = tf.constant([1, 2])
  a = per_tensor.private_seed(seed, tf.constant([1.0, 2.0]))
  assert (a != per_tensor.private_seed(seed, tf.constant([1.0, 2.1]))).numpy().any()
  assert (a != per_tensor.private_seed(tf.constant([1, 3]), tf.constant([1.0, 2.0]))).numpy().any()
  np.testing.assert_array_equal(a, per_tensor.private_seed(seed, tf.constant([1.0, 2.0])))


def test_tensors_have_seeds_of_their_own():
  x = tf.random.stateless_normal([50], [0, 0])
  levels = [m.levels for m in codecs.QSGD(1).encode((), [x, x], tf.constant([0, 0])).message]
  assert (levels[0] != levels[1]).numpy().any()


def test_memory_must_fit_the_value():
  codec = codecs.PowerSGD()
  memory = codec.initial_memory([tf.TensorSpec([9, 9])])
  with pytest.raises(ValueError):
    codec.encode(memory, [tf.zeros([9, 9]), tf.zeros([9, 9])], tf.constant([0, 0]))
