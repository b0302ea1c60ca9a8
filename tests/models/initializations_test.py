import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import models
from tff_lowrank.models import initializations

layers = tf.keras.layers


def test_uniform_in_the_inverse_root_of_fan_in():
  model = initializations.with_uniform_fan_in(models.build_cnn((28, 28, 1)))
  fans = {'conv2d': 25, 'conv2d_1': 25 * 20, 'dense': 800, 'dense_1': 500}
  weights = [v.numpy() for v in model.trainable_variables]
  for fan_in, kernel, bias in zip(fans.values(), weights[::2], weights[1::2], strict=True):
    limit = fan_in**-0.5
    for drawn in (kernel, bias):
      assert np.abs(drawn).max() <= limit
    assert np.abs(kernel).max() > 0.95 * limit
    # A uniform distribution's standard deviation, within four standard errors.
    assert abs(kernel.std() * 3**0.5 / limit - 1) < 4 / kernel.size**0.5
    assert np.std(bias) > 0


def test_the_seed_decides_and_the_function_stays():
  model = tf.keras.Sequential([layers.Input((3,)), layers.Dense(4, 'relu'), layers.Dense(2)])
  drawn = []
  for _ in range(2):
    tf.keras.utils.set_random_seed(1)
    drawn.append(initializations.with_uniform_fan_in(model))
  for first, again in zip(*(m.get_weights() for m in drawn), strict=True):
    np.testing.assert_array_equal(first, again)
  x = np.ones((5, 3), np.float32)
  model.set_weights(drawn[0].get_weights())
  np.testing.assert_array_equal(model(x), drawn[0](x))


def test_nested_models_and_other_layers():
  inner = tf.keras.Sequential([layers.Input((3,)), layers.Dense(400)])
  fedpara = models.build_two_fc(family='fedpara', gamma=0.5)
  model = tf.keras.Sequential([layers.Input((3,)), inner, layers.LayerNormalization()])
  weights = initializations.with_uniform_fan_in(model).get_weights()
  assert 0.5 < np.abs(weights[0]).max() <= 3**-0.5 and weights[1].any()
  np.testing.assert_array_equal(weights[2], np.ones(400))
  with pytest.raises(ValueError, match="'two_fc' has no plain Dense or Conv2D layer"):
    initializations.with_uniform_fan_in(fedpara)
