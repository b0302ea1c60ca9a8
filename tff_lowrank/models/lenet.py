"""LeNet-5."""

import tensorflow as tf


def build_lenet5(num_classes: int = 10) -> tf.keras.Model:
  """The LeNet-5 of APF's experiments, on 32x32x3 images; returns logits.

  Two 5x5 convolutions (6, 16 channels) with ReLU and pooling, then 120 and 84 units.
  """
  # 5*5*3*6 + 6, 5*5*6*16 + 16, 400*120 + 120, 120*84 + 84, 84*10 + 10: 62,006 parameters.
  layers = tf.keras.layers
  return tf.keras.Sequential(
    [
      layers.InputLayer((32, 32, 3)),
      layers.Conv2D(6, 5, activation='relu'),
      layers.MaxPool2D(),
      layers.Conv2D(16, 5, activation='relu'),
      layers.MaxPool2D(),
      layers.Flatten(),
      layers.Dense(120, activation='relu'),
      layers.Dense(84, activation='relu'),
      layers.Dense(num_classes),
    ]
  )
