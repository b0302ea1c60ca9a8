"""Small runs, and a task of a user's own data."""

import collections
import functools

import numpy as np
import pandas as pd
import tensorflow as tf

from tff_lowrank import tasks

FAST = dict(num_clients=4, clients_per_round=2, rounds=2, batch_size=64)
ARGUMENTS = [f'--{name}={value}' for name, value in FAST.items()]

# Of a user's task, whose clients are all there are.
OWN = dict(clients_per_round=2, rounds=2, batch_size=8)

_CENTERS = np.array([[2.0, 0, 0, 1], [-2, 1, 0, 0], [0, -2, 2, 0]])


def examples(count, seed=0):
  """Three classes that a linear model can tell apart. x: float64 [count, 4], y: int64 [count]."""
  rng = np.random.default_rng(seed)
  y = np.arange(count) % 3
  return _CENTERS[y] + rng.normal(size=(count, 4)) / 4, y


def network():
  return tf.keras.Sequential(
    [
      tf.keras.Input((4,)),
      tf.keras.layers.Dense(8, activation='relu'),
      tf.keras.layers.Dense(3),
    ]
  )


@functools.cache
def own_task(keras_model_fn=network, **options):
  """Of four clients, with 12 to 15 examples each."""
  by_client = {f'ward{k}': examples(12 + k, k) for k in range(4)}
  return tasks.from_client_data(by_client, examples(30, 9), keras_model_fn, **options)


def numbers(folder):
  """The rows of metrics.csv, but how long they took."""
  return pd.read_csv(folder / 'metrics.csv').drop(columns='round_seconds')


def assert_same_numbers(a, b):
  pd.testing.assert_frame_equal(numbers(a), numbers(b), check_exact=True)


def outputs(model, task):
  """What a Keras model makes of all test examples of a task: logits and labels."""
  batch = task.preprocess(collections.OrderedDict(x=task.test.x, y=task.test.y))
  return np.asarray(model(batch['x'])), np.asarray(batch['y'])


def accuracy(model, task):
  """The share of the test examples that a Keras model classifies correctly."""
  logits, labels = outputs(model, task)
  return np.mean(logits.argmax(-1) == labels)
