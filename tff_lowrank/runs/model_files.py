"""The trained Keras models in a run folder."""

import logging
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from tff_lowrank import files
from tff_lowrank import layers
from tff_lowrank import tasks
from tff_lowrank.simulation import file_operations

# Name of the model -> its file.
FILES = dict(model='model.keras', composed='model_composed.keras', best='model_best.keras')


def with_weights(task: tasks.Task, weights: Any) -> tf.keras.Model:
  """The task's Keras model with `weights`, a `tff.learning.models.ModelWeights` of arrays."""
  model = task.keras_model_fn()
  for kind in ('trainable', 'non_trainable'):
    variables = getattr(model, f'{kind}_variables')
    for variable, value in zip(variables, getattr(weights, kind), strict=True):
      variable.assign(np.asarray(value))
  return model


def save(folder: pathlib.Path, name: str, model: tf.keras.Model) -> None:
  """Writes a model; warns if Keras cannot, for example because of unregistered code."""
  target = folder / FILES[name]
  temporary = folder / f'.new.{FILES[name]}'
  try:
    model.save(temporary, save_format='keras')
  except OSError:
    raise
  except Exception as e:  # The user's own layers may raise any error.
    temporary.unlink(missing_ok=True)
    logging.warning('%s was not written: Keras cannot save the model: %s', target, e)
  else:
    file_operations.rename(temporary, target)


def save_final(folder: pathlib.Path, task: tasks.Task, weights: Any) -> None:
  """Writes the trained model and, if it has factorised layers, the composed model."""
  model = with_weights(task, weights)
  save(folder, 'model', model)
  if any(hasattr(layer, 'factored_kernels') for layer in model.submodules):
    save(folder, 'composed', layers.compose(model))


def save_best(folder: pathlib.Path, task: tasks.Task, weights: Any) -> None:
  """Writes the model of the best evaluation so far."""
  save(folder, 'best', with_weights(task, weights))


def remove(folder: pathlib.Path, name: str) -> None:
  """Removes the model of that name, if there is one."""
  (folder / FILES[name]).unlink(missing_ok=True)


def load(folder: pathlib.Path, name: str) -> tf.keras.Model:
  """The model of that name, one of `FILES`; raises FileNotFoundError if the run has none."""
  if name not in FILES:
    raise ValueError(f'`name` must be one of {", ".join(FILES)}, found {name!r}.')
  path = folder / FILES[name]
  if not path.exists():
    raise FileNotFoundError(f'{folder} has no {FILES[name]}: see `Run.load_model`.')
  with files.reading(path, 'a Keras model'):
    return tf.keras.models.load_model(path, compile=False)
