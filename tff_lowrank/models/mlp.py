"""A fully connected network."""

import tensorflow as tf


def build_mlp(
  input_shape: tuple[int, ...], hidden: tuple[int, ...] = (64,), num_classes: int = 10
) -> tf.keras.Model:
  """Dense layers of `hidden` units with ReLU on the flattened input; returns logits."""
  layers = tf.keras.layers
  return tf.keras.Sequential(
    [
      layers.InputLayer(input_shape),
      layers.Flatten(),
      *(layers.Dense(units, activation='relu') for units in hidden),
      layers.Dense(num_classes),
    ]
  )
