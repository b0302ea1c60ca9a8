"""ResNet-18 for small images, with group normalisation."""

from typing import Any

import tensorflow as tf

from tff_lowrank.models import families

_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_WIDTH = 2


def build_resnet18(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
  width_multiplier: float = 1.0,
  groups: int = 2,
) -> tf.keras.Model:
  """A 3x3 convolution, 8 residual blocks of two, mean pooling, a dense layer; returns logits.

  He et al., 2016, in the form for CIFAR; 11,173,962 parameters for 10 classes. Convolutions have
  no biases, normalisations are affine. Group normalisation, since TFF does not support batch
  normalisation. As in FedPara's experiments (arXiv 2108.06098), the first two convolutions and the
  1x1 convolutions have gamma 1, and the dense layer is not factorised.

  Args:
    input_shape: rows, columns, channels.
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`.
    gamma: in [0, 1], for a factorised family.
    tanh: the paper's non-linearity, for family `'fedpara'`.
    width_multiplier: factor for all numbers of channels, which are rounded to even numbers.
    groups: number of groups in the normalisation.
  """
  layers, make = tf.keras.layers, families.LayerFamily(family, gamma, tanh)
  whole = make.with_gamma(1.0)

  def convolve(x: Any, filters: int, size: int = 3, strides: int = 1, maker: Any = make) -> Any:
    x = maker.conv2d(x, filters, size, strides=strides, padding='same', use_bias=False)
    return layers.GroupNormalization(groups)(x)

  widths = families.scaled(_WIDTHS, width_multiplier)
  inputs = layers.Input(input_shape)
  x = layers.ReLU()(convolve(inputs, widths[0], maker=whole))
  for i, filters in enumerate(widths):
    for j in range(_BLOCKS_PER_WIDTH):
      strides = 2 if i > 0 and j == 0 else 1
      maker = whole if i == j == 0 else make
      y = layers.ReLU()(convolve(x, filters, strides=strides, maker=maker))
      y = convolve(y, filters)
      if strides > 1:
        x = convolve(x, filters, size=1, strides=strides, maker=whole)
      x = layers.ReLU()(layers.Add()([x, y]))
  x = layers.GlobalAveragePooling2D()(x)
  return tf.keras.Model(inputs, make.plain().dense(x, num_classes), name='resnet18')
