import dataclasses

import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import models
from tff_lowrank import tasks


def build(name='digits', **settings):
  settings = dict(partition='iid', num_clients=4, seed=1) | settings
  return tasks.build(name, **settings)


def test_digits_fits_together():
  task = build()
  assert len(task.train.client_ids) == 4
  model = task.build_model(seed=3)
  batch = next(iter(task.train.create_tf_dataset_for_client('client_0').batch(7)))
  batch = task.preprocess(batch)
  assert batch['x'].numpy().max() <= 1
  for name, spec in model.input_spec.items():
    assert spec.is_compatible_with(batch[name])


@pytest.mark.parametrize(
  'make_layers, message',
  [
    (lambda k: [k.Flatten()], "Model 'odd' has no trainable variables"),
    (lambda k: [k.Flatten(), k.Dense(9)], r'output of shape \(None, 9\)'),
    (lambda k: [k.Dense(10)], r'output of shape \(None, 8, 8, 10\)'),
    (lambda k: [k.BatchNormalization(name='bn')], "Layer 'bn' of model 'odd' is batch"),
  ],
)
def test_odd_models_are_refused_before_anything_is_trained(make_layers, message):
  def keras_model_fn():
    keras = tf.keras.layers
    return tf.keras.Sequential([keras.InputLayer((8, 8, 1)), *make_layers(keras)], name='odd')

  with pytest.raises(ValueError, match=message):
    dataclasses.replace(build(), keras_model_fn=keras_model_fn).build_model(1)


def test_a_model_of_another_input_is_refused():
  other = dataclasses.replace(build(), keras_model_fn=lambda: models.build_mlp((28, 28, 1)))
  with pytest.raises(ValueError, match=r'\(None, 28, 28, 1\), but the examples have shape \(None,'):
    other.build_model(1)


def test_labels_are_checked_as_the_model_has_them():
  """Here they are from 1 up as stored."""
  task = build()
  shifted = dataclasses.replace(
    task,
    test=task.test._replace(y=task.test.y + 1),
    preprocess=lambda batch: task.preprocess(dict(batch, y=batch['y'] - 1)),
  )
  shifted.build_model(1)
  with pytest.raises(ValueError, match='but labels up to 10 need a logit for each of 11'):
    dataclasses.replace(shifted, preprocess=task.preprocess).build_model(1)
  with pytest.raises(ValueError, match='digits: labels must be classes, from 0 up, found -1'):
    dataclasses.replace(shifted, test=task.test).build_model(1)


def test_what_ends_in_a_softmax_is_refused_where_the_loss_takes_logits():
  def keras_model_fn():
    keras = tf.keras.layers
    return tf.keras.Sequential(
      [keras.InputLayer((8, 8, 1)), keras.Flatten(), keras.Dense(10, 'softmax')]
    )

  task = dataclasses.replace(build(), keras_model_fn=keras_model_fn)
  with pytest.raises(ValueError, match='ends in a softmax'):
    task.build_model(1)
  objective = dataclasses.replace(
    task.objective, loss=tf.keras.losses.SparseCategoricalCrossentropy(), from_logits=False
  )
  dataclasses.replace(task, objective=objective).build_model(1)


def test_client_data_of_another_class_is_refused():
  train = tff.simulation.datasets.TestClientData({'a': dict(x=[1.0], y=[1])})
  with pytest.raises(TypeError, match='tasks.from_client_data converts .*, found TestClientData'):
    dataclasses.replace(build(), train=train)
