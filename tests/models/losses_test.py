"""Regularisers act in the functional models of tasks, as they do in Keras's own training."""

import collections
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import learning
from tff_lowrank import tasks
from tff_lowrank.models import losses
from tff_lowrank.simulation import evaluation

RATE = 0.1


class WithLoss(tf.keras.layers.Layer):
  """Scales by weights w, and adds the loss |w - 2|^2."""

  def build(self, shape):
    self.w = self.add_weight('w', shape[-1:], initializer='ones')

  def call(self, x):
    self.add_loss(tf.reduce_sum(tf.square(self.w - 2)))
    return x * self.w


OWN_LOSSES = {
  'kernel': lambda: [tf.keras.layers.Dense(10, kernel_regularizer=tf.keras.regularizers.L2(0.5))],
  'activity': lambda: [
    tf.keras.layers.Dense(20, 'tanh', activity_regularizer='l1'), tf.keras.layers.Dense(10)
  ],
  'add_loss': lambda: [tf.keras.layers.Dense(10), WithLoss()],
  'several': lambda: [
    tf.keras.layers.Dense(10, bias_regularizer='l1', kernel_regularizer='l1_l2'), WithLoss()
  ],
}  # fmt: skip


def task_of(layers):
  def keras_model_fn():
    start = [tf.keras.layers.InputLayer((8, 8, 1)), tf.keras.layers.Flatten()]
    return tf.keras.Sequential([*start, *layers()])

  task = tasks.build('digits', partition='iid', num_clients=2, seed=1)
  return dataclasses.replace(task, keras_model_fn=keras_model_fn)


def one_batch(task):
  x, y = task.train.examples(task.train.client_ids[0])
  return task.preprocess(collections.OrderedDict(x=x, y=y))


@pytest.mark.parametrize('build', [learning.build_fed_avg, learning.build_fed_prox])
@pytest.mark.parametrize('own', OWN_LOSSES)
def test_a_step_is_kerass(own, build):
  task = task_of(OWN_LOSSES[own])
  model = task.build_model(seed=3)
  process = build(model, tff.learning.optimizers.build_sgdm(RATE))
  batch = one_batch(task)
  data = tf.data.Dataset.from_tensors(batch)
  output = process.next(process.initialize(), [process.initialize_client()], [data])
  trained = process.get_model_weights(output.state).trainable

  keras_model = task.keras_model_fn()
  keras_model.set_weights(model.initial_weights[0])
  keras_model.compile(tf.keras.optimizers.SGD(RATE), task.objective.loss)
  keras_model.train_on_batch(batch['x'], batch['y'])
  for found, expected, before in zip(
    trained, keras_model.get_weights(), model.initial_weights[0], strict=True
  ):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - before).max() > 1e-3

  # As of `from_keras_model`, what is reported is the objective's loss alone.
  prepared = task.preprocess(collections.OrderedDict(x=task.test.x, y=task.test.y))
  logits = keras_model(prepared['x'])
  evaluate = evaluation.build_evaluation(model, task.test, task.preprocess)
  found = evaluate(process.get_model_weights(output.state))['loss']
  np.testing.assert_allclose(found, task.objective.loss(task.test.y, logits), rtol=1e-4)


def test_weights_are_those_of_the_seed():
  plain = task_of(lambda: [tf.keras.layers.Dense(10)]).build_model(seed=3)
  regularised = task_of(OWN_LOSSES['kernel']).build_model(seed=3)
  for a, b in zip(plain.initial_weights[0], regularised.initial_weights[0], strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_model_without_own_losses_stays_as_it_is():
  model = tf.keras.Sequential([tf.keras.layers.InputLayer((3,)), tf.keras.layers.Dense(2)])
  assert losses.with_own_losses(model) is model
