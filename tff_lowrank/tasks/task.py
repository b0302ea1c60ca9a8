"""The record of a task: a federated data set with its model, loss and metrics."""

import collections
from collections.abc import Callable
import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import objectives
from tff_lowrank.datasets import arrays
from tff_lowrank.models import losses
from tff_lowrank.models import requirements


@dataclasses.dataclass(frozen=True)
class Task:
  """What is learnt, from whom.

  train: elements `OrderedDict(x=..., y=...)`, as stored.
  test: central test examples.
  preprocess: a batch `OrderedDict(x, y)` as stored -> the model's `OrderedDict(x, y)`.
  keras_model_fn: builds the model; it returns logits.
  client_test: each client's own test examples, under the ids of `train`; None if no examples
    were held out. The central test examples are others.
  objective: loss and metrics.
  eval_batch_size: test examples that are evaluated at once.
  """

  name: str
  train: arrays.ExampleClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  keras_model_fn: Callable[[], tf.keras.Model]
  client_test: arrays.ExampleClientData | None = None
  objective: objectives.Objective = objectives.CLASSIFICATION
  eval_batch_size: int = 1000

  def digest(self) -> str:
    """SHA-256, in hexadecimal, of the ids of the clients and the test examples."""
    found = hashlib.sha256('\0'.join(self.train.client_ids).encode())
    for array in self.test:
      found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()

  def build_model(self, seed: int) -> tff.learning.models.FunctionalModel:
    """The model, with initial weights that `seed` decides. Its metrics: the objective's.

    What is minimised is the objective's loss plus the model's own losses, as of regularisers.

    Raises ValueError if it cannot be trained, or does not fit the examples.
    """
    tf.keras.utils.set_random_seed(seed)
    keras_model = self.keras_model_fn()
    requirements.check_trainable(keras_model)
    x, y = self.test
    prepared = self.preprocess(collections.OrderedDict(x=x[:1], y=y[:1]))
    if tf.as_dtype(
      prepared['y'].dtype
    ).is_integer:  # Classes, not a number for each of several labels.
      if y.min() < 0:
        raise ValueError(f'{self.name}: labels must be classes, from 0 up, found {y.min()}.')
      requirements.check_shapes(
        keras_model, prepared['x'].shape[1:], prepared['y'].shape[1:], int(y.max())
      )
    return tff.learning.models.functional_model_from_keras(
      losses.with_own_losses(keras_model),
      loss_fn=self.objective.loss,
      input_spec=tf.nest.map_structure(
        lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), prepared
      ),
      metrics_constructor=self.objective.metrics,
    )
