"""The convolutional network of LBGM's experiments."""

import tensorflow as tf

from tff_lowrank.models import families


def build_cnn(
  input_shape: tuple[int, int, int] = (28, 28, 1),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """Two 5x5 convolutions (20, 50 channels) with pooling, then 500 units; returns logits.

  431,080 parameters for 28x28x1 images and 10 classes; 657,080 for 32x32x3. The convolutions have
  few of these parameters, so factorised families use gamma 1 for them, as for `build_resnet18`'s
  first two.

  Args:
    input_shape: rows, columns, channels.
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`.
    gamma: in [0, 1], for the dense layers of a factorised family.
    tanh: FedPara's non-linearity, for family `'fedpara'`.
  """
  layers = tf.keras.layers
  make = families.LayerFamily(family, gamma, tanh, kernel_initializer='glorot_uniform')
  whole = make.with_gamma(1.0)
  x = inputs = layers.Input(input_shape)
  for filters in (20, 50):
    x = layers.MaxPool2D()(whole.conv2d(x, filters, 5, activation='relu'))
  x = make.dense(layers.Flatten()(x), 500, activation='relu')
  return tf.keras.Model(inputs, make.dense(x, num_classes), name='cnn')
