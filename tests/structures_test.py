import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import structures


def test_specs_and_zeros_keep_structure_shape_and_dtype():
  value = {'a': np.ones([2, 3], np.float32), 'b': [tf.constant(1, tf.int64)]}
  specs = structures.specs(value)
  assert specs['a'] == tf.TensorSpec([2, 3], tf.float32)
  assert specs['b'] == [tf.TensorSpec([], tf.int64)]
  zeros = structures.zeros(specs)
  np.testing.assert_array_equal(zeros['a'], np.zeros([2, 3], np.float32))
  assert structures.specs(specs) == specs


def test_num_elements():
  assert structures.num_elements([np.zeros([2, 3]), np.zeros([]), np.zeros([0, 5])]) == 7


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
def test_all_finite(bad):
  assert structures.all_finite([tf.zeros([3]), tf.zeros([0])])
  assert structures.all_finite([])
  assert not structures.all_finite([tf.zeros([3]), tf.constant([0.0, bad])])


def test_select():
  a, b = [tf.constant([1.0, 2.0]), tf.constant(True)], [tf.constant([3.0, 4.0]), tf.constant(False)]
  np.testing.assert_array_equal(structures.select(tf.constant(True), a, b)[0], [1, 2])
  np.testing.assert_array_equal(structures.select(tf.constant(False), a, b)[0], [3, 4])


def test_dot_neither_underflows_nor_overflows():
  tiny, huge = tf.constant([1e-30, 2e-30]), tf.constant([1e30])
  np.testing.assert_allclose(structures.dot([tiny], [tiny]), 5e-60, rtol=1e-6)
  np.testing.assert_allclose(structures.dot([huge], [huge]), 1e60, rtol=1e-6)


def test_count_takes_masks_of_scalars_and_of_whole_tensors():
  value = [tf.zeros([2, 3]), tf.zeros([4]), tf.zeros([]), tf.zeros([0, 2])]
  mask = [tf.constant([[True, False, True], [False, False, True]]), tf.constant(True),
          tf.constant(False), tf.zeros([0, 2], tf.bool)]  # fmt: skip
  counted = structures.count(mask, value)
  assert counted == 3 + 4 and counted.dtype == tf.int64
  assert structures.count([], []) == 0


def test_where_takes_masks_of_scalars_and_of_whole_tensors(rng):
  a, b = rng.normal(size=(2, 3, 4)).astype(np.float32)
  b[0] = np.nan  # What is not chosen does not count.
  mask = np.isnan(b) | (rng.random([3, 4]) < 0.5)
  np.testing.assert_array_equal(structures.where(mask, a, b), np.where(mask, a, b))
  for whole in (True, False):
    np.testing.assert_array_equal(structures.where(tf.constant(whole), a, b), a if whole else b)
  with pytest.raises(tf.errors.InvalidArgumentError):
    structures.where(mask, a, b[:, :1])
