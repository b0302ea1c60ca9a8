import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank import tasks

dense, flatten = tf.keras.layers.Dense, tf.keras.layers.Flatten


def network(*middle):
  return tf.keras.Sequential(
    [tf.keras.Input((8, 8, 1)), flatten(), *middle, dense(10)], name='mine'
  )


def mine(keras_model_fn=lambda: network(dense(64, 'relu'))):
  named = tasks.build('digits', num_clients=5, seed=1)
  return dataclasses.replace(named, name='my task', keras_model_fn=keras_model_fn)


def test_nothing_changes_by_default():
  task = mine()
  assert tasks.prepare(task, seed=1) == tasks.prepare(task, num_clients=0, seed=1) == task


def test_fewer_clients_keep_their_test_examples():
  task = tasks.prepare(mine(), client_test_fraction=0.5, seed=1)
  some = tasks.prepare(task, num_clients=2, seed=2)
  assert some.train.client_ids == some.client_test.client_ids
  assert len(some.train.client_ids) == 2
  client = some.train.client_ids[1]
  np.testing.assert_array_equal(
    some.client_test.examples(client).x, task.client_test.examples(client).x
  )
  with pytest.raises(ValueError, match='my task already have test examples: .* found 0.5'):
    tasks.prepare(task, client_test_fraction=0.5, seed=1)


@pytest.mark.parametrize(
  'family, convert',
  [
    ('fedpara', layers.to_fedpara),
    ('pfedpara', lambda model, **options: layers.to_fedpara(model, personal=True, **options)),
    ('low_rank', layers.to_low_rank),
  ],
)
def test_the_model_is_converted_layer_by_layer(family, convert):
  task = mine()
  converted = tasks.prepare(task, seed=1, model_family=family, gamma=0.3).keras_model_fn()
  expected = convert(task.keras_model_fn(), gamma=0.3)
  assert [v.shape for v in converted.trainable_variables] == [
    v.shape for v in expected.model.trainable_variables
  ]
  assert layers.personal_mask(converted) == layers.personal_mask(expected.model)
  # The seed decides the initial weights, as without conversion.
  first, again = (
    tasks.prepare(task, seed=1, model_family=family, gamma=0.3).build_model(5).initial_weights
    for _ in range(2)
  )
  tf.nest.map_structure(np.testing.assert_array_equal, first, again)


def test_a_model_without_layers_to_convert_is_refused():
  class Subclassed(tf.keras.Model):
    def call(self, inputs):
      return inputs

  for build, message in (
    (
      lambda: tf.keras.Sequential([tf.keras.Input((8, 8, 1)), flatten(), dense(2)]),
      'The model of my task cannot be converted to fedpara: .* would not get smaller',
    ),
    (Subclassed, 'The model of my task cannot be converted to fedpara: .* a subclassed model'),
  ):
    with pytest.raises(ValueError, match=f'(?s){message}'):
      tasks.prepare(mine(build), seed=1, model_family='fedpara', gamma=0.5)


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(num_clients=6), 'There are 5 clients, expected 6'),
    (dict(num_clients=-1), '`num_clients` must be at least 1'),
    (dict(client_test_fraction=1), 'must be below 1, found 1'),
    (dict(client_test_fraction=2.0), r'`client_test_fraction` must be in \[0, 1\]'),
    (dict(model_family='fedpara'), '`gamma` must be given'),
    (dict(model_family='wide', gamma=0.1), "found 'wide'"),
    (dict(tanh=True), "`tanh` is for family 'fedpara' only"),
  ],
)
def test_impossible_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    tasks.prepare(mine(), **dict(seed=1) | options)


def test_other_initial_weights():
  task = mine()
  changed = tasks.prepare(task, seed=1, initialization='uniform_fan_in')
  (kernel, bias, *_), _ = changed.build_model(5).initial_weights
  assert np.abs(kernel).max() <= 1 / 8 and 0 < np.abs(bias).max() <= 1 / 8
  again = tasks.prepare(task, seed=1, initialization='uniform_fan_in').build_model(5)
  np.testing.assert_array_equal(again.initial_weights[0][0], kernel)
  with pytest.raises(ValueError, match='`initialization` must be one of .*, found .he'):
    tasks.prepare(task, seed=1, initialization='he')
