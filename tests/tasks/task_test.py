import dataclasses

import pytest
import tensorflow as tf

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
  with pytest.raises(
    ValueError, match=r'\(None, 28, 28, 1\), but the examples are of shape \(None,'
  ):
    other.build_model(1)
