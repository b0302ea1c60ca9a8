"""A fully connected network."""

import tensorflow as tf

from tff_lowrank.models import families


def build_mlp(
  input_shape: tuple[int, ...],
  hidden: tuple[int, ...] = (64,),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """Dense layers of `hidden` units with ReLU on the flattened input; returns logits.

  family, gamma, tanh: as in `build_two_fc`.
  """
  layers = tf.keras.layers
  make = families.LayerFamily(family, gamma, tanh, kernel_initializer='glorot_uniform')
  inputs = layers.Input(input_shape)
  x = layers.Flatten()(inputs)
  for units in hidden:
    x = make.dense(x, units, activation='relu')
  return tf.keras.Model(inputs, make.dense(x, num_classes), name='mlp')
