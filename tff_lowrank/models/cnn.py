"""The convolutional network of LBGM's experiments."""

import tensorflow as tf


def build_cnn(
  input_shape: tuple[int, int, int] = (28, 28, 1), num_classes: int = 10
) -> tf.keras.Model:
  """Two 5x5 convolutions (20, 50 channels) with pooling, then 500 units; returns logits.

  431,080 parameters for 28x28x1 images and 10 classes; 657,080 for 32x32x3.
  """
  layers = tf.keras.layers
  return tf.keras.Sequential(
    [
      layers.InputLayer(input_shape),
      layers.Conv2D(20, 5, activation='relu'),
      layers.MaxPool2D(),
      layers.Conv2D(50, 5, activation='relu'),
      layers.MaxPool2D(),
      layers.Flatten(),
      layers.Dense(500, activation='relu'),
      layers.Dense(num_classes),
    ]
  )
