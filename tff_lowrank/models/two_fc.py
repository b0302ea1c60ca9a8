"""The fully connected network of pFedPara's experiments."""

import tensorflow as tf

from tff_lowrank.models import families


def build_two_fc(
  input_shape: tuple[int, ...] = (28, 28, 1),
  num_classes: int = 10,
  *,
  family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
  plain_head: bool = False,
  hidden: int = 256,
) -> tf.keras.Model:
  """Dense 256 with ReLU on the flattened input, then dense classes; returns logits.

  Hyeon-Woo et al., ICLR 2022, arXiv 2108.06098. For 28x28 images and 10 classes: 203,530
  parameters; with `'pfedpara'` at gamma 0.5, 59,570 are global and travel.

  Args:
    input_shape: of one example.
    num_classes: size of the output.
    family: `'original'`, `'fedpara'`, `'low_rank'` or `'pfedpara'`; both layers are factorised.
    gamma: in [0, 1], of a factorised family.
    tanh: the paper's non-linearity, of family `'fedpara'`.
    plain_head: whether the last layer is plain in every family.
    hidden: units of the first layer.
  """
  layers, make = tf.keras.layers, families.LayerFamily(family, gamma, tanh, plain_head=plain_head)
  inputs = layers.Input(input_shape)
  x = make.dense(layers.Flatten()(inputs), hidden, activation='relu')
  return tf.keras.Model(inputs, make.head(x, num_classes), name='two_fc')
