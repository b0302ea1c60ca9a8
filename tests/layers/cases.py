"""All factorised layers in one table, for tests that hold for each."""

import numpy as np
import tensorflow as tf

from tff_lowrank import layers

IMAGES, VECTORS, TOKENS, SEQUENCES = (6, 7, 5), (9,), (4,), (4, 6)

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
  'Embedding': (TOKENS, dict(input_dim=11, output_dim=6, mask_zero=True)),
  'LSTM': (SEQUENCES, dict(units=5, return_sequences=True)),
  'GRU': (SEQUENCES, dict(units=5)),
}
ALL = [(kind, plain) for kind in KINDS for plain in PLAIN]


def make(kind, plain, **kwargs):
  """(layer, input shape of one example)"""
  shape, arguments = PLAIN[plain]
  return getattr(layers, kind.split()[0] + plain)(**(arguments | KINDS[kind] | kwargs)), shape


def make_plain(plain, **kwargs):
  return getattr(tf.keras.layers, plain)(**(PLAIN[plain][1] | kwargs))


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
