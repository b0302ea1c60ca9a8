"""Models of runs, as Keras saves them."""

import logging

import numpy as np
import pytest
import tensorflow as tf

from tests.runs import small
from tff_lowrank import files
from tff_lowrank import layers
from tff_lowrank import runs
from tff_lowrank import tasks
from tff_lowrank.runs import model_files

dense = tf.keras.layers.Dense


class Shifted(tf.keras.layers.Layer):
  """A user's layer that Keras can copy and not save: its configuration is no JSON."""

  def __init__(self, shift=None, **options):
    super().__init__(**options)
    self._shift = shift or {1.0}

  def call(self, x):
    return x + sum(self._shift)

  def get_config(self):
    return super().get_config() | dict(shift=self._shift)


class Halved(tf.keras.layers.Layer):
  """A user's layer that Keras can save, and load where it is told of it."""

  def call(self, x):
    return x / 2


def network_with(make_layer):
  def build():
    return tf.keras.Sequential([tf.keras.Input((4,)), dense(8), make_layer(), dense(3)])

  return build


def test_a_model_that_cannot_be_saved_is_told_and_the_run_completes(tmp_path, caplog):
  task = small.own_task(network_with(Shifted))
  saving = runs.Saving(keep_best=True)
  found = runs.train(task, 'fed_avg', tmp_path, saving=saving, **small.OWN | dict(rounds=1))
  told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
  for name in ('model.keras', 'model_best.keras'):
    assert any(f'{name} was not written: Keras cannot save the model' in text for text in told)
  assert found.record['status'] == 'completed' and found.metrics['eval_accuracy'].notna().all()
  with pytest.raises(FileNotFoundError):
    found.load_model()
  assert not [*tmp_path.glob('.new*')]


def test_a_disk_that_is_full_is_no_matter_of_the_model(tmp_path, monkeypatch):
  def full(self, path, **options):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(tf.keras.Sequential, 'save', full)
  with pytest.raises(OSError, match='No space left'):
    model_files.save(tmp_path, 'model', small.network())


def test_layers_of_a_user_are_loaded_in_a_scope(tmp_path):
  model = network_with(Halved)()
  model_files.save(tmp_path, 'model', model)
  with pytest.raises(files.FileError, match='model.keras.*Halved'):
    model_files.load(tmp_path, 'model')
  with tf.keras.utils.custom_object_scope({'Halved': Halved}):
    loaded = model_files.load(tmp_path, 'model')
  x = np.ones([2, 4], np.float32)
  np.testing.assert_array_equal(loaded(x), model(x))


def test_a_model_is_replaced_as_a_whole(tmp_path, caplog):
  model_files.save(tmp_path, 'model', small.network())
  before = (tmp_path / 'model.keras').read_bytes()
  model_files.save(tmp_path, 'model', network_with(Shifted)())
  assert (tmp_path / 'model.keras').read_bytes() == before and 'was not written' in caplog.text
  model_files.remove(tmp_path, 'model')
  model_files.remove(tmp_path, 'model')
  assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('method', ['fed_per', 'pfedpara', 'local_only'])
def test_of_personal_methods_it_is_what_the_server_has(tmp_path, method):
  given = small.FAST | dict(client_test_fraction=0.2)
  found = runs.train('digits', method, tmp_path, **given)
  task = tasks.build('digits', num_clients=4, seed=1)
  accuracy = small.accuracy(found.load_model(), task)
  assert accuracy == pytest.approx(found.metrics['eval_accuracy'].iloc[-1], abs=1e-6)


def test_frozen_layers_and_their_places(tmp_path):
  """Keras has trainable and other weights in lists of their own."""

  def build():
    first = dense(8, trainable=False)
    return tf.keras.Sequential([tf.keras.Input((4,)), first, dense(8, activation='relu'), dense(3)])

  task = small.own_task(build)
  model = runs.train(task, 'fed_avg', tmp_path, **small.OWN).load_model()
  tf.keras.utils.set_random_seed(1)
  start = build()
  for layer, before, is_kept in zip(model.layers, start.layers, [True, False, False], strict=True):
    assert np.array_equal(layer.kernel, before.kernel) == is_kept
    assert layer.trainable != is_kept


def test_nested_models_and_their_places(tmp_path):
  """Whose weights TFF has before those of the layers around them."""

  def build():
    nested = tf.keras.Sequential([tf.keras.Input((4,)), dense(4)])
    first = dense(4, activation='relu')
    return tf.keras.Sequential([tf.keras.Input((4,)), first, nested, dense(3)])

  task = small.own_task(build)
  for method, given in (('fed_avg', {}), ('fed_per', dict(client_test_fraction=0.2))):
    found = runs.train(task, method, tmp_path / method, **small.OWN | given)
    accuracy = found.metrics['eval_accuracy'].iloc[-1]
    assert small.accuracy(found.load_model(), task) == pytest.approx(accuracy, abs=1e-6)
  # The last layer is each client's own: the server's is as at the start.
  trained = found.load_model().layers
  tf.keras.utils.set_random_seed(1)
  for layer, before, is_kept in zip(trained, build().layers, [False, False, True], strict=True):
    assert np.array_equal(layer.get_weights()[0], before.get_weights()[0]) == is_kept


def test_adapters_and_the_composed_model(tmp_path):
  tf.keras.utils.set_random_seed(3)
  pretrained = small.network()
  task = small.own_task(lambda: layers.to_adapters(pretrained, rank=2).model)
  found = runs.train(task, 'fed_avg', tmp_path, **small.OWN | dict(client_learning_rate=0.5))
  adapted, composed = found.load_model(), found.load_model('composed')
  assert type(composed.layers[0]) is dense and composed.count_params() == pretrained.count_params()
  a, b, before = (small.outputs(model, task)[0] for model in (adapted, composed, pretrained))
  np.testing.assert_allclose(a, b, atol=1e-5)
  assert not np.allclose(a, before, atol=1e-3)
  accuracy = found.metrics['eval_accuracy'].iloc[-1]
  assert small.accuracy(composed, task) == pytest.approx(accuracy, abs=1e-6)
