import numpy as np
import tensorflow as tf

from tff_lowrank.freezing import aggressive

SHAPE = tf.TensorShape([400, 500])


def draw(variant, check, seed=3, index=0, shape=SHAPE):
  return aggressive.extra_period(variant, seed, tf.constant(check), index, shape).numpy()


def test_off_draws_nothing():
  assert not draw('none', 5000).any()


def test_one_round_is_a_coin():
  drawn = draw('one_round', 7)
  assert set(np.unique(drawn)) == {0, 1}
  assert abs(drawn.mean() - 0.5) < 4 * 0.5 / np.sqrt(drawn.size)


def test_growing_starts_after_check_20_and_follows_the_papers_code():
  for check in (0, 10, 20):
    assert not draw('growing', check).any()
  for check in (21, 100, 1000):
    drawn = draw('growing', check)
    # u in [1, c / 20) of [0, 100), lengths up to ceil(c / 20) - 1, each with probability 1/100.
    probability = check / 2000 - 0.01
    spread = 4 * np.sqrt(probability * (1 - probability) / drawn.size)
    assert abs(np.mean(drawn > 0) - probability) < spread
    assert drawn.max() == np.ceil(check / 20) - 1
  lengths = np.bincount(draw('growing', 1000).ravel())[1:] / SHAPE.num_elements()
  np.testing.assert_allclose(lengths, 0.01, atol=0.0015)


def test_is_a_function_of_seed_check_and_coordinate():
  drawn = draw('one_round', 7)
  np.testing.assert_array_equal(drawn, draw('one_round', 7))
  for other in (draw('one_round', 8), draw('one_round', 7, seed=4), draw('one_round', 7, index=1)):
    assert abs(np.mean(drawn == other) - 0.5) < 0.01


def test_same_numbers_eager_traced_and_compiled():
  def uniform(check):
    return aggressive.uniform(2**31 - 1, check, 3, SHAPE)

  eager = uniform(tf.constant(5)).numpy()
  assert eager.min() >= 0 and eager.max() < 1
  for jit in (False, True):
    traced = tf.function(uniform, jit_compile=jit)(tf.constant(5))
    np.testing.assert_array_equal(eager, traced)


def test_empty_tensors():
  assert draw('growing', 100, shape=tf.TensorShape([0, 3])).shape == (0, 3)
