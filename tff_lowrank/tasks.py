"""Tasks: a federated data set with its model, loss and metrics."""

import collections
from collections.abc import Callable
import dataclasses
import functools
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
from tff_lowrank.models import families
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
  """

  name: str
  train: arrays.ArrayClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  keras_model_fn: Callable[[], tf.keras.Model]
  client_test: arrays.ArrayClientData | None = None

  def build_model(self, seed: int) -> tff.learning.models.FunctionalModel:
    """The model, with initial weights that `seed` decides. Its metrics: loss, accuracy.

    Raises ValueError if it cannot be trained, or does not fit the examples.
    """
    tf.keras.utils.set_random_seed(seed)
    keras_model = self.keras_model_fn()
    requirements.check_trainable(keras_model)
    batch = self.preprocess(collections.OrderedDict(x=self.test.x[:1], y=self.test.y[:1]))
    requirements.check_shapes(
      keras_model, batch['x'].shape[1:], batch['y'].shape[1:], int(self.test.y.max())
    )
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
  return digits.load_arrays(), preprocess, functools.partial(models.build_mlp, (8, 8, 1))


def _mnist_like(name: str, build_model: Callable = models.build_cnn) -> Callable:
  def load(data_dir: str | None) -> tuple[arrays.Arrays, Callable, Callable]:
    mean, std = mnist.MEAN_AND_STD[name]
    return mnist.load_arrays(name, data_dir), _normalized(mean, std), build_model

  return load


def _cifar10(build_model: Callable) -> Callable:
  def load(data_dir: str | None) -> tuple[arrays.Arrays, Callable, Callable]:
    return cifar.load_arrays(data_dir), _normalized(cifar.MEAN, cifar.STD), build_model

  return load


# A name is a data set with its usual model, or followed by another model.
_LOADERS = collections.OrderedDict(
  digits=_digits,
  mnist=_mnist_like('mnist'),
  mnist_two_fc=_mnist_like('mnist', models.build_two_fc),
  fashion_mnist=_mnist_like('fashion_mnist'),
  cifar10=_cifar10(models.build_lenet5),
  cifar10_vgg16=_cifar10(models.build_vgg16),
  cifar10_vgg16_quarter=_cifar10(functools.partial(models.build_vgg16, width_multiplier=0.25)),
)

NAMES = tuple(_LOADERS)


def build(
  name: str,
  *,
  partition: str,
  num_clients: int,
  seed: int,
  data_dir: str | None = None,
  client_test_fraction: float = 0.0,
  model_family: str = 'original',
  gamma: float | None = None,
) -> Task:
  """Loads the task called `name`.

  Args:
    name: One of `NAMES`.
    partition: How to split the training examples; see `datasets.partition.parse`.
    num_clients: Over how many clients.
    seed: Decides the partition.
    data_dir: Where the data set's files are, for all but the embedded one.
    client_test_fraction: In [0, 1): the share of each client's own examples that it does not
      train on but tests on; 0 holds none out. See `ArrayClientData.held_out`.
    model_family: The family of the model's layers; see `models.families.LayerFamily`.
    gamma: In [0, 1], FedPara's rank hyper-parameter, of a factorised family.

  Raises:
    FileNotFoundError: If the data set's files are missing.
    ValueError: If an argument has an impossible value or a file is damaged.
  """
  checks.check_one_of('name', name, NAMES)
  partitioner = partition_lib.parse(partition)
  families.LayerFamily(model_family, gamma)  # Raises if they do not go together.
  checks.check_in_range('client_test_fraction', client_test_fraction, 0, 1)
  if client_test_fraction == 1:
    raise ValueError('`client_test_fraction` must be below 1, found 1.')
  data, preprocess, build_model = _LOADERS[name](data_dir)
  train = arrays.partitioned(data.train, partitioner(data.train.y, num_clients, seed))
  client_test = None
  if client_test_fraction:
    train, client_test = train.held_out(client_test_fraction, seed)
  keras_model_fn = functools.partial(build_model, family=model_family, gamma=gamma)
  return Task(name, train, data.test, preprocess, keras_model_fn, client_test)
