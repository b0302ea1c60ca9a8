"""The fully connected network of pFedPara's experiments."""

import dataclasses

import tensorflow as tf

from tff_lowrank.models import families


def build_two_fc(
  input_shape: tuple[int, ...] = (28, 28, 1),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
  hidden: int = 256,
  head_rank: int | None = None,
) -> tf.keras.Model:
  """Dense 256 with ReLU on the flattened input, then dense classes; returns logits.

  Hyeon-Woo et al., ICLR 2022, arXiv 2108.06098. For 28x28 images and 10 classes: 203,530
  parameters; with `'pfedpara'` at gamma 0.5, 59,570 are shared and sent.

  Args:
    input_shape: the shape of one example.
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`; both layers are factorised.
    gamma: in [0, 1], for a factorised family.
    tanh: the paper's non-linearity, for family `'fedpara'`.
    hidden: units of the first layer.
    head_rank: the rank of the last layer, instead of that from gamma. While pFedPara's personal
      factors are near 0, logits have the rank of the shared ones: 4 for 10 classes at gamma 0.5.
  """
  layers, make = tf.keras.layers, families.LayerFamily(family, gamma, tanh)
  inputs = layers.Input(input_shape)
  x = make.dense(layers.Flatten()(inputs), hidden, activation='relu')
  head = dataclasses.replace(make, rank=head_rank)
  return tf.keras.Model(inputs, head.dense(x, num_classes), name='two_fc')
