"""The convolutional network of federated EMNIST benchmarks."""

import tensorflow as tf

from tff_lowrank.layers import dropout
from tff_lowrank.models import families


def build_emnist_cnn(
  num_classes: int = 62,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
) -> tf.keras.Model:
  """Two 3x3 convolutions (32, 64 channels), pooling, then 128 units; 28x28x1 images -> logits.

  Reddi et al., Adaptive Federated Optimization, ICLR 2021; 1,206,590 parameters for 62 classes,
  1,199,882 for 10. Dropout is 0.25 after pooling, and 0.5 before the last layer. TFF has the same
  model in `tff.simulation.baselines.emnist`.

  Args:
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`.
    gamma: in [0, 1], for a factorised family.
    tanh: FedPara's non-linearity, for family `'fedpara'`.
  """
  layers = tf.keras.layers
  make = families.LayerFamily(family, gamma, tanh, kernel_initializer='glorot_uniform')
  x = inputs = layers.Input((28, 28, 1))
  for filters in (32, 64):
    x = make.conv2d(x, filters, 3, activation='relu')
  x = dropout.StatelessDropout(0.25)(layers.MaxPool2D()(x))
  x = make.dense(layers.Flatten()(x), 128, activation='relu')
  x = dropout.StatelessDropout(0.5)(x)
  return tf.keras.Model(inputs, make.dense(x, num_classes), name='emnist_cnn')
