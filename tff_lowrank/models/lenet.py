"""LeNet-5, as in APF's experiments."""

import tensorflow as tf

from tff_lowrank.models import families


def build_lenet5(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """Two 5x5 convolutions (6, 16 channels) with pooling, dense 120, 84, classes; returns logits.

  LeCun et al., 1998, with ReLU and max pooling. 62,006 parameters for 32x32x3 and 10 classes.
  All layers that get smaller with factors are factorised.

  Args:
    input_shape: rows, columns, channels; rows and columns at least 16.
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`.
    gamma: in [0, 1], for a factorised family.
    tanh: the paper's non-linearity, for family `'fedpara'`.
  """
  layers, make = tf.keras.layers, families.LayerFamily(family, gamma, tanh)
  x = inputs = layers.Input(input_shape)
  for filters in (6, 16):
    x = layers.MaxPool2D()(make.conv2d(x, filters, 5, activation='relu'))
  x = layers.Flatten()(x)
  for units in (120, 84):
    x = make.dense(x, units, activation='relu')
  return tf.keras.Model(inputs, make.dense(x, num_classes), name='lenet5')
