"""Factorised layers inside TFF, whose functional models replay a Keras model with given weights."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import layers
from tff_lowrank import models

L = tf.keras.layers


def images(**options):
  return tf.keras.Sequential(
    [
      L.InputLayer((8, 8, 2)),
      layers.FedParaConv2D(8, 3, rank=2, activation='relu', **options),
      L.GroupNormalization(2),
      layers.FedParaConv2D(8, 3, rank=2, form='matrix', strides=2, **options),
      L.Flatten(),
      layers.FedParaDense(3, rank=2, **options),
    ]
  )


def words(recurrent, **options):
  return tf.keras.Sequential(
    [
      L.InputLayer((5,), dtype=tf.int32),
      layers.FedParaEmbedding(9, 6, rank=2, mask_zero=True, **options),
      recurrent(7, rank=2, return_sequences=True, **options),
      recurrent(6, rank=2, **options),
      layers.FedParaDense(3, rank=2, **options),
    ]
  )


def plain_words():
  return tf.keras.Sequential(
    [
      L.InputLayer((5,), dtype=tf.int32),
      L.Embedding(9, 6, mask_zero=True),
      L.LSTM(7),
      L.LayerNormalization(),
      L.Dense(3),
    ]
  )


def plain_images():
  return tf.keras.Sequential(
    [
      L.InputLayer((8, 8, 2)),
      L.Conv2D(8, 3, activation='relu'),
      L.GroupNormalization(2),
      L.Flatten(),
      L.Dense(3),
    ]
  )


def convolutions(**options):
  """Of images read as sequences of rows, and of their pixels; in groups, and each channel alone."""
  return tf.keras.Sequential(
    [
      L.InputLayer((8, 8, 2)),
      layers.FedParaConv2D(6, 3, rank=2, groups=2, activation='relu', **options),
      layers.FedParaDepthwiseConv2D(2, rank=2, depth_multiplier=2, **options),
      layers.FedParaSeparableConv2D(6, 2, rank=2, activation='relu', **options),
      L.Reshape((4, 24)),
      layers.FedParaConv1D(6, 2, rank=2, padding='causal', **options),
      layers.FedParaSeparableConv1D(6, 2, rank=2, **options),
      L.Flatten(),
      layers.FedParaDense(3, rank=2, **options),
    ]
  )


def wrapped_words():
  return tf.keras.Sequential(
    [
      L.InputLayer((5,), dtype=tf.int32),
      L.Embedding(9, 6, mask_zero=True, name='words'),
      L.TimeDistributed(L.Dense(8)),
      L.Bidirectional(L.LSTM(7)),
      L.Dense(3, name='head'),
    ]
  )


MODELS = {
  'convolutions': convolutions,
  'convolutions recomputed': lambda: convolutions(recompute=True),
  'wrapped': lambda: layers.to_fedpara(wrapped_words(), budget=1.0).model,
  'wrapped adapters': lambda: layers.to_adapters(wrapped_words(), 2, trainable=['head']).model,
  'images': images,
  'images recomputed': lambda: images(recompute=True),
  'images personal': lambda: images(personal=True),
  'lstm': lambda: words(layers.FedParaLSTM),
  'gru recomputed': lambda: words(layers.FedParaGRU, recompute=True),
  'low rank': lambda: layers.to_low_rank(plain_images(), gamma=0.3).model,
  'image adapters': lambda: layers.to_adapters(plain_images(), 2).model,
  'word adapters': lambda: layers.to_adapters(plain_words(), 2).model,
}
LEARNING_RATE, STEPS = 0.1, 3


def loss_fn():
  return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build(name, rng):
  """The Keras model with random weights, and its inputs x and labels y."""
  tf.keras.utils.set_random_seed(0)
  model = MODELS[name]()
  model.set_weights([w + 0.1 * rng.normal(size=w.shape) for w in model.get_weights()])
  if model.input.dtype == tf.int32:
    x = rng.integers(0, 9, size=(STEPS * 4, 5)).astype(np.int32)
  else:
    x = rng.normal(size=(STEPS * 4, *model.input_shape[1:])).astype(np.float32)
  return model, x, rng.integers(0, 3, size=len(x)).astype(np.int32)


def functional_of(model, x):
  """To be called last: Keras models made eagerly cannot be called once TFF has made graphs."""
  spec = collections.OrderedDict(
    x=tf.TensorSpec((None, *x.shape[1:]), x.dtype), y=tf.TensorSpec((None,), tf.int32)
  )
  return tff.learning.models.functional_model_from_keras(model, loss_fn(), spec)


def fed_avg(functional, clients):
  """The model's weights after one round of TFF's own FedAvg; each client is (x, y)."""
  process = tff.learning.algorithms.build_weighted_fed_avg(
    functional, tff.learning.optimizers.build_sgdm(LEARNING_RATE)
  )
  data = [
    tf.data.Dataset.from_tensor_slices(collections.OrderedDict(x=x, y=y)).batch(4)
    for x, y in clients
  ]
  state = process.next(process.initialize(), data).state
  return process.get_model_weights(state)


def train_by_keras(model, x, y):
  """Trainable weights after SGD from the model's weights, which are left as they were."""
  start = model.get_weights()
  for i in range(0, len(x), 4):
    with tf.GradientTape() as tape:
      loss = loss_fn()(y[i : i + 4], model(x[i : i + 4], training=True))
    gradients = tape.gradient(loss, model.trainable_variables)
    for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
      variable.assign_sub(LEARNING_RATE * tf.convert_to_tensor(gradient))
  trained = [v.numpy() for v in model.trainable_variables]
  model.set_weights(start)
  return trained


@pytest.mark.parametrize('name', MODELS)
def test_one_client_of_fed_avg_is_central_training(name, rng):
  """Weights in Keras' order, and after a round those of plain SGD on the Keras model."""
  model, x, y = build(name, rng)
  trained = train_by_keras(model, x, y)
  start = [v.numpy() for v in model.trainable_variables]
  frozen = [v.numpy() for v in model.non_trainable_variables]
  functional = functional_of(model, x)
  for given, expected in zip(functional.initial_weights, (start, frozen), strict=True):
    for weight, value in zip(given, expected, strict=True):
      np.testing.assert_array_equal(weight, value)
  weights = fed_avg(functional, [(x, y)])
  for weight, expected, before in zip(weights.trainable, trained, start, strict=True):
    np.testing.assert_allclose(weight, expected, rtol=1e-3, atol=1e-4)
    assert np.abs(weight - before).max() > 0
  for weight, before in zip(weights.non_trainable, frozen, strict=True):
    np.testing.assert_array_equal(weight, before)


def test_weights_of_a_branching_model_are_in_keras_order():
  model = models.build_resnet18((8, 8, 2), 3, family='pfedpara', gamma=0.2, width_multiplier=0.125)
  expected = [v.numpy() for v in model.trainable_variables]
  functional = functional_of(model, np.zeros((1, 8, 8, 2), np.float32))
  for weight, value in zip(functional.initial_weights[0], expected, strict=True):
    np.testing.assert_array_equal(weight, value)


def test_the_mask_of_personal_weights_fits_the_functional_model(rng):
  model, x, _ = build('images personal', rng)
  mask = layers.personal_mask(model)
  # conv: t, x, y, personal t, x, y, bias; norm: 2; matrix conv: x, y, personal x, y, bias; dense.
  assert mask == [False] * 3 + [True] * 3 + [False] * 3 + 2 * ([False] * 2 + [True] * 2 + [False])
  shapes = [w.shape for w in functional_of(model, x).initial_weights[0]]
  assert [s for s, m in zip(shapes, mask, strict=True) if m][:3] == [(2, 2, 3, 3), (8, 2), (2, 2)]


def test_mean_over_clients_is_of_factors(rng):
  """Not of products: a weighted mean of what each client's SGD leaves."""
  model, x, y = build('images', rng)
  clients = [(x[:4], y[:4]), (x[4:], y[4:])]
  one, two = (train_by_keras(model, *client) for client in clients)
  weights = fed_avg(functional_of(model, x), clients)
  for weight, a, b in zip(weights.trainable, one, two, strict=True):
    np.testing.assert_allclose(weight, (4 * a + 8 * b) / 12, rtol=1e-3, atol=1e-4)
