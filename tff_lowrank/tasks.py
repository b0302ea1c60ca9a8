"""Tasks: a federated data set with its model, loss and metrics."""

import collections
from collections.abc import Callable
import dataclasses
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import models
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import digits
from tff_lowrank.datasets import mnist
from tff_lowrank.datasets import partition as partition_lib


@dataclasses.dataclass(frozen=True)
class Task:
  """What is learnt, from whom.

  train: elements `OrderedDict(x=..., y=...)`, as stored.
  test: central test examples.
  preprocess: a batch `OrderedDict(x, y)` as stored -> the model's `OrderedDict(x, y)`.
  keras_model_fn: builds the model; it returns logits.
  """

  name: str
  train: arrays.ArrayClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  keras_model_fn: Callable[[], tf.keras.Model]

  def build_model(self, seed: int) -> tff.learning.models.FunctionalModel:
    """The model, with initial weights that `seed` decides. Its metrics: loss, accuracy."""
    tf.keras.utils.set_random_seed(seed)
    keras_model = self.keras_model_fn()
    input_shape = keras_model.input_shape
    return tff.learning.models.functional_model_from_keras(
      keras_model,
      loss_fn=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      input_spec=collections.OrderedDict(
        x=tf.TensorSpec(input_shape, tf.float32), y=tf.TensorSpec((None,), tf.int32)
      ),
      metrics_constructor=collections.OrderedDict(
        loss=lambda: tf.keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        accuracy=tf.keras.metrics.SparseCategoricalAccuracy,
      ),
    )


def _normalized(mean: Any, std: Any) -> Callable[[Any], Any]:
  def preprocess(batch: Any) -> Any:
    x = (tf.cast(batch['x'], tf.float32) - mean) / std
    return collections.OrderedDict(x=x, y=batch['y'])

  return preprocess


def _digits(data_dir: str | None) -> tuple[arrays.Arrays, Callable, Callable]:
  del data_dir  # Embedded.
  preprocess = _normalized(0.0, digits.MAX_VALUE)
  return digits.load_arrays(), preprocess, lambda: models.build_mlp((8, 8, 1))


def _mnist_like(name: str) -> Callable:
  def load(data_dir: str | None) -> tuple[arrays.Arrays, Callable, Callable]:
    mean, std = mnist.MEAN_AND_STD[name]
    return mnist.load_arrays(name, data_dir), _normalized(mean, std), models.build_cnn

  return load


def _cifar10(data_dir: str | None) -> tuple[arrays.Arrays, Callable, Callable]:
  return cifar.load_arrays(data_dir), _normalized(cifar.MEAN, cifar.STD), models.build_lenet5


_LOADERS = collections.OrderedDict(
  digits=_digits,
  mnist=_mnist_like('mnist'),
  fashion_mnist=_mnist_like('fashion_mnist'),
  cifar10=_cifar10,
)

NAMES = tuple(_LOADERS)


def build(
  name: str, *, partition: str, num_clients: int, seed: int, data_dir: str | None = None
) -> Task:
  """Loads the task called `name`.

  Args:
    name: One of `NAMES`.
    partition: How to split the training examples; see `datasets.partition.parse`.
    num_clients: Over how many clients.
    seed: Decides the partition.
    data_dir: Where the data set's files are, for all but the embedded one.

  Raises:
    FileNotFoundError: If the data set's files are missing.
    ValueError: If an argument has an impossible value or a file is damaged.
  """
  checks.check_one_of('name', name, NAMES)
  partitioner = partition_lib.parse(partition)
  data, preprocess, keras_model_fn = _LOADERS[name](data_dir)
  train = arrays.partitioned(data.train, partitioner(data.train.y, num_clients, seed))
  return Task(name, train, data.test, preprocess, keras_model_fn)
