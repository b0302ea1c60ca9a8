import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import models
from tff_lowrank import tasks
from tff_lowrank.datasets import arrays


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


def test_seed_decides_initial_weights_and_partition():
  task = build()
  a, b, c = (task.build_model(seed).initial_weights[0] for seed in (1, 1, 2))
  assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
  assert not np.array_equal(a[0], c[0])
  first, other = (
    np.stack([e['x'] for e in build(seed=s).train.create_tf_dataset_for_client('client_0')])
    for s in (1, 2)
  )
  assert not np.array_equal(first, other)


def test_real_tasks(shared_data):
  for name in ('mnist', 'fashion_mnist'):
    task = build(name, data_dir=str(shared_data), partition='shards:3', num_clients=100)
    assert sum(w.size for w in task.build_model(1).initial_weights[0]) == 431_080
    sizes = [task.train.num_examples(c) for c in task.train.client_ids]
    assert sum(sizes) == 60_000


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match="found 'cifar'"):
    build('cifar')
  with pytest.raises(ValueError, match='A partition must be'):
    build(partition='natural')


@pytest.mark.parametrize('family', ['fedpara', 'low_rank', 'pfedpara'])
def test_models_of_other_families(family):
  model = build(model_family=family, gamma=0.5).build_model(1)
  assert sum(w.size for w in model.initial_weights[0]) < 4810
  with pytest.raises(ValueError, match='`gamma` must be given for'):
    build(model_family=family)


def test_clients_have_test_examples_on_request():
  assert build().client_test is None
  task = build(client_test_fraction=0.2)
  assert task.client_test.client_ids == task.train.client_ids
  whole = build().train
  for c in whole.client_ids:
    assert task.client_test.num_examples(c) == round(0.2 * whole.num_examples(c))
    assert task.train.num_examples(c) + task.client_test.num_examples(c) == whole.num_examples(c)
  with pytest.raises(ValueError, match='must be below 1, found 1'):
    build(client_test_fraction=1)


def test_tasks_with_other_models(monkeypatch):
  def loaded(shape):
    split = arrays.Split(np.zeros((20, *shape), np.uint8), np.arange(20, dtype=np.int32) % 10)
    return lambda *args: arrays.Arrays(split, split)

  monkeypatch.setattr(tasks.mnist, 'load_arrays', loaded((28, 28, 1)))
  monkeypatch.setattr(tasks.cifar, 'load_arrays', loaded((32, 32, 3)))
  for name, count in (
    ('mnist_two_fc', 203_530),
    ('cifar10', 62_006),
    ('cifar10_vgg16', 15_253_578),
    ('cifar10_vgg16_quarter', 957_210),
  ):
    assert build(name).keras_model_fn().count_params() == count


@pytest.mark.parametrize(
  'layers, message',
  [
    ([tf.keras.layers.Flatten()], "Model 'odd' has no trainable variables"),
    ([tf.keras.layers.Flatten(), tf.keras.layers.Dense(9)], r'output of shape \(None, 9\)'),
    ([tf.keras.layers.Dense(10)], r'output of shape \(None, 8, 8, 10\)'),
    ([tf.keras.layers.BatchNormalization(name='bn')], "Layer 'bn' of model 'odd' is batch"),
  ],
)
def test_odd_models_are_refused_before_anything_is_trained(layers, message):
  def keras_model_fn():
    return tf.keras.Sequential([tf.keras.layers.InputLayer((8, 8, 1)), *layers], name='odd')

  with pytest.raises(ValueError, match=message):
    dataclasses.replace(build(), keras_model_fn=keras_model_fn).build_model(1)


def test_a_model_of_another_input_is_refused():
  other = dataclasses.replace(build(), keras_model_fn=lambda: models.build_mlp((28, 28, 1)))
  with pytest.raises(
    ValueError, match=r'\(None, 28, 28, 1\), but the examples are of shape \(None,'
  ):
    other.build_model(1)
