"""All factorised layers in one table, for tests that hold for each."""

import numpy as np
import tensorflow as tf

from tff_lowrank import layers

IMAGES, VECTORS, TOKENS, SEQUENCES, VOLUMES = (6, 7, 4), (9,), (4,), (4, 6), (4, 3, 5, 2)

KINDS = {
  'FedPara': dict(rank=2),
  'FedPara personal': dict(rank=2, personal=True),
  'FedPara tanh': dict(rank=2, tanh=True),
  'FedPara gamma': dict(gamma=0.5),
  'LowRank': dict(rank=3),
  'LowRank budget': dict(budget=0.6),
  'Adapter': dict(rank=2, scale=0.5),
}
PLAIN = {
  'Dense': (VECTORS, dict(units=4, activation='elu')),
  'Conv2D': (IMAGES, dict(filters=8, kernel_size=(3, 2), padding='same', activation='tanh')),
  'Conv1D': (SEQUENCES, dict(filters=8, kernel_size=3, padding='causal', activation='tanh')),
  'Conv1D grouped': (SEQUENCES, dict(filters=9, kernel_size=2, groups=3)),
  'Conv2D grouped': (IMAGES, dict(filters=6, kernel_size=3, groups=2, strides=2)),
  'Conv3D': (VOLUMES, dict(filters=3, kernel_size=(2, 3, 1))),
  'DepthwiseConv1D': (SEQUENCES, dict(kernel_size=3, depth_multiplier=2, padding='same')),
  'DepthwiseConv2D': (IMAGES, dict(kernel_size=(3, 2), depth_multiplier=2, activation='tanh')),
  'SeparableConv1D': (SEQUENCES, dict(filters=5, kernel_size=2, padding='causal')),
  'SeparableConv2D': (IMAGES, dict(filters=7, kernel_size=3, depth_multiplier=2, strides=2)),
  'Embedding': (TOKENS, dict(input_dim=11, output_dim=6, mask_zero=True)),
  'LSTM': (SEQUENCES, dict(units=5, return_sequences=True)),
  'GRU': (SEQUENCES, dict(units=5)),
}
# Each kind with a kernel of each sort, and the others with each of the three families.
ALL = [
  (kind, plain)
  for kind in KINDS
  for plain in PLAIN
  if plain in ('Dense', 'Conv2D', 'Embedding', 'LSTM', 'GRU')
  or kind in ('FedPara', 'LowRank', 'Adapter')
]


def make(kind, plain, **kwargs):
  """(layer, input shape of one example)"""
  shape, arguments = PLAIN[plain]
  layer_class = getattr(layers, kind.split()[0] + plain.split()[0])
  return layer_class(**(arguments | KINDS[kind] | kwargs)), shape


def plain_class(plain):
  return getattr(tf.keras.layers, plain.split()[0])


def make_plain(plain, **kwargs):
  return plain_class(plain)(**(PLAIN[plain][1] | kwargs))


def inputs(shape, rng, batch=3, dtype=np.float32):
  if shape == TOKENS:
    return rng.integers(0, 11, size=(batch, *shape))
  return rng.normal(size=(batch, *shape)).astype(dtype)


def model_of(layer, shape):
  tokens = isinstance(layer, tf.keras.layers.Embedding)
  return tf.keras.Sequential(
    [tf.keras.layers.InputLayer(shape, dtype=tf.int32 if tokens else None), layer]
  )


def randomize(layer, rng):
  """Gives every weight, zero or not at the start, random values of size 0.5."""
  layer.set_weights([0.5 * rng.normal(size=w.shape) for w in layer.get_weights()])
