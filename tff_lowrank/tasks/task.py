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
from tff_lowrank.models import requirements
from tff_lowrank.tasks import functional_model


@dataclasses.dataclass(frozen=True)
class Task:
  """A task: federated data, a model, and an objective.

  train: elements `OrderedDict(x=..., y=...)`, as stored.
  test: central test examples.
  preprocess: a batch `OrderedDict(x, y)` as stored -> the model's `OrderedDict(x, y)`.
  keras_model_fn: builds the model, Sequential or functional; it returns logits.
  client_test: each client's test examples, with the ids of `train`; None if there are none.
    Examples held out of `train` are not in the central test set.
  objective: loss and metrics.
  eval_batch_size: test examples per batch.

  Raises TypeError if `train` is of the wrong class.
  """

  name: str
  train: arrays.ExampleClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  keras_model_fn: Callable[[], tf.keras.Model]
  client_test: arrays.ExampleClientData | None = None
  objective: objectives.Objective = objectives.CLASSIFICATION
  eval_batch_size: int = 1000

  def __post_init__(self) -> None:
    if not isinstance(self.train, arrays.ExampleClientData):
      raise TypeError(
        '`train` must be an `ExampleClientData`; tasks.from_client_data converts other data, '
        f'found {type(self.train).__name__}.'
      )

  def digest(self) -> str:
    """SHA-256, in hexadecimal, of the ids of the clients and the test examples."""
    found = hashlib.sha256('\0'.join(self.train.client_ids).encode())
    for array in self.test:
      found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()

  def build_model(self, seed: int) -> tff.learning.models.FunctionalModel:
    """The model, with initial weights from `seed` and the metrics of the objective.

    Its weights are in Keras's order. The loss is the objective's plus the model's own losses, such
    as regularisers. If the model has a `layers.StatelessDropout`, its batches have a key; see
    `models.keyed`.

    Raises ValueError if it cannot be trained, or does not fit the test examples.
    """
    tf.keras.utils.set_random_seed(seed)
    keras_model = self.keras_model_fn()
    prepared = self.check_model(keras_model, self.test)
    return functional_model.from_keras(
      keras_model,
      loss_fn=self.objective.loss,
      input_spec=tf.nest.map_structure(
        lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), prepared
      ),
      metrics_constructor=self.objective.metrics,
    )

  def check_model(
    self, keras_model: tf.keras.Model, examples: arrays.Split
  ) -> collections.OrderedDict[str, Any]:
    """Raises ValueError unless the model can be trained, and fits `examples`, as stored.

    Returns:
      A preprocessed batch of two examples: those with the smallest and the largest label.
    """
    requirements.check_trainable(keras_model)
    x, y = examples
    chosen = extremes(y)
    prepared = self.preprocess(collections.OrderedDict(x=x[chosen], y=y[chosen]))
    labels = np.asarray(prepared['y'])
    max_label = None
    if labels.dtype.kind in 'iu':  # Labels are classes, not numbers for several outputs.
      if labels.min() < 0:
        raise ValueError(f'{self.name}: labels must be classes, from 0 up, found {labels.min()}.')
      max_label = int(labels.max())
    if max_label is not None or not self.objective.classes:
      requirements.check_shapes(
        keras_model, prepared['x'].shape[1:], prepared['y'].shape[1:], max_label
      )
    if self.objective.from_logits:
      requirements.check_returns_logits(keras_model)
    return prepared


def as_stored(batch: Any) -> Any:
  """The `preprocess` of a task whose examples need no preprocessing."""
  return batch


def extremes(y: np.ndarray) -> list[int]:
  """The positions of the smallest and largest labels; for labels that are numbers, 0 twice."""
  if y.dtype.kind not in 'iu':
    return [0, 0]
  by_example = y.reshape(len(y), -1)
  return [int(by_example.min(1).argmin()), int(by_example.max(1).argmax())]
