"""Softmax regression for tests: in Keras, and once more in NumPy from its equations."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import client_work

FEATURES = 6
CLASSES = 3


def keras_model():
  return tf.keras.Sequential(
    [tf.keras.layers.InputLayer((FEATURES,)), tf.keras.layers.Dense(CLASSES)]
  )


def build_model(rng):
  """A functional model with random weights and metrics `loss` and `accuracy`."""
  model = keras_model()
  model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
  return tff.learning.models.functional_model_from_keras(
    model,
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    collections.OrderedDict(x=tf.TensorSpec([None, FEATURES]), y=tf.TensorSpec([None], tf.int32)),
    metrics_constructor=collections.OrderedDict(
      loss=lambda: tf.keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
      accuracy=tf.keras.metrics.SparseCategoricalAccuracy,
    ),
  )


def examples(rng, count):
  x = rng.normal(size=(count, FEATURES)).astype(np.float32)
  return x, rng.integers(0, CLASSES, count).astype(np.int32)


def dataset(x, y, batch_size, rate=None):
  """Batches, with a learning rate each if there is one."""
  elements = collections.OrderedDict(x=x, y=y)
  batches = tf.data.Dataset.from_tensor_slices(elements).batch(batch_size)
  if rate is None:
    return batches
  rates = tf.data.Dataset.from_tensors(np.float32(rate)).repeat(-(-len(x) // batch_size))
  return tf.data.Dataset.zip(client_work.with_rate(batches, rates))


def gradients(kernel, bias, x, y):
  """Of the mean cross entropy of softmax(x kernel + bias)."""
  logits = x @ kernel + bias
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  error = (p - np.eye(CLASSES)[y]) / len(x)
  return x.T @ error, error.sum(0)


def train(weights, x, y, batch_size, learning_rate):
  """One pass of SGD in float64; returns the trained [kernel, bias]."""
  kernel, bias = (np.float64(w) for w in weights)
  for start in range(0, len(x), batch_size):
    batch = slice(start, start + batch_size)
    d_kernel, d_bias = gradients(kernel, bias, x[batch], y[batch])
    kernel, bias = kernel - learning_rate * d_kernel, bias - learning_rate * d_bias
  return [kernel, bias]
