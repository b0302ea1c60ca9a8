"""VGG16 with group normalisation, as in FedPara's image experiments."""

import tensorflow as tf

from tff_lowrank.models import families

# Channels of the convolutions between two poolings.
_BLOCKS = ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3)
_HEAD = (512, 512)


def build_vgg16(
  input_shape: tuple[int, int, int] = (32, 32, 3),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
  width_multiplier: float = 1.0,
  groups: int = 2,
) -> tf.keras.Model:
  """13 3x3 convolutions in 5 blocks, then 3 dense layers that are never factorised; logits.

  Hyeon-Woo et al., ICLR 2022, arXiv 2108.06098, based on Simonyan and Zisserman, 2015. 15,253,578
  parameters for 10 classes and 15,299,748 for 100, with biases and normalisation.

  Args:
    input_shape: rows, columns, channels; rows and columns at least 32, for the 5 poolings.
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`.
    gamma: in [0, 1], for a factorised family.
    tanh: the paper's non-linearity, for family `'fedpara'`.
    width_multiplier: factor for all numbers of channels and units except the output's, which are
      rounded to even numbers.
    groups: number of groups in the normalisation; not stated in the paper, 2 in Flower's
      reproduction.
  """
  layers, make = tf.keras.layers, families.LayerFamily(family, gamma, tanh)
  x = inputs = layers.Input(input_shape)
  for block in _BLOCKS:
    for filters in families.scaled(block, width_multiplier):
      x = make.conv2d(x, filters, 3, padding='same')
      x = layers.GroupNormalization(groups)(x)
      x = layers.ReLU()(x)
    x = layers.MaxPool2D()(x)
  x = layers.Flatten()(x)
  for units in families.scaled(_HEAD, width_multiplier):
    x = make.plain().dense(x, units, activation='relu')
  return tf.keras.Model(inputs, make.plain().dense(x, num_classes), name='vgg16')
