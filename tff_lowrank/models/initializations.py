"""Other initial weights for the layers of any Keras model."""

import math

import tensorflow as tf

INITIALIZATIONS = ('default', 'uniform_fan_in')


def with_uniform_fan_in(model: tf.keras.Model) -> tf.keras.Model:
  """A copy of a model whose plain Dense and Conv2D layers start as in PyTorch.

  Kernels and biases are uniform in +-1/sqrt(fan_in), with fan_in the number of inputs of one unit:
  PyTorch's default for linear and convolutional layers, with which LBGM's published code trains.
  Other layers, such as FedPara's, keep their own initial distributions. All weights are drawn anew,
  with the global seed of TensorFlow.

  Raises:
    ValueError: If the model has no such layer.
  """
  plain = (tf.keras.layers.Dense, tf.keras.layers.Conv2D)
  found = []

  def copy(layer: tf.keras.layers.Layer) -> tf.keras.layers.Layer:
    if isinstance(layer, tf.keras.Model):
      return tf.keras.models.clone_model(layer, clone_function=copy)
    config = layer.get_config()
    if type(layer) in plain:
      found.append(layer.name)
      limit = 1 / math.sqrt(math.prod(layer.kernel.shape[:-1]))
      uniform = tf.keras.initializers.RandomUniform
      config['kernel_initializer'] = uniform(-limit, limit)
      config['bias_initializer'] = uniform(-limit, limit)
    return type(layer).from_config(config)

  changed = tf.keras.models.clone_model(model, clone_function=copy)
  if not found:
    raise ValueError(f'Model {model.name!r} has no plain Dense or Conv2D layer to initialize.')
  return changed
