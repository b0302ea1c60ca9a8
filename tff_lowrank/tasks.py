"""Tasks: a federated data set with its model, loss and metrics."""

import collections
from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import models
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import digits
from tff_lowrank.datasets import keywords
from tff_lowrank.datasets import mnist
from tff_lowrank.datasets import partition as partition_lib
from tff_lowrank.datasets import qmnist
from tff_lowrank.models import families


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
  train: arrays.ExampleClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  keras_model_fn: Callable[[], tf.keras.Model]
  client_test: arrays.ExampleClientData | None = None

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


class _Parts(NamedTuple):
  """What a data set gives a task: as `Task` has it, but for `train` before it is partitioned.

  build_model: `(family=..., gamma=...) -> keras.Model`.
  """

  train: arrays.Split | arrays.ExampleClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  build_model: Callable[..., tf.keras.Model]


class _Recipe(NamedTuple):
  """How to load a task's parts from `data_dir`; None for what it does not have.

  central: gives training examples to partition. natural: gives clients of the data set's own.
  """

  central: Callable[[str | None], _Parts] | None = None
  natural: Callable[[str | None], _Parts] | None = None


def _normalized(mean: Any, std: Any) -> Callable[[Any], Any]:
  def preprocess(batch: Any) -> Any:
    x = (tf.cast(batch['x'], tf.float32) - mean) / std
    return collections.OrderedDict(x=x, y=batch['y'])

  return preprocess


def _digits(data_dir: str | None) -> _Parts:
  del data_dir  # Embedded.
  preprocess = _normalized(0.0, digits.MAX_VALUE)
  return _Parts(*digits.load_arrays(), preprocess, functools.partial(models.build_mlp, (8, 8, 1)))


def _mnist_like(name: str, build_model: Callable = models.build_cnn) -> _Recipe:
  def load(data_dir: str | None) -> _Parts:
    normalized = _normalized(*mnist.MEAN_AND_STD[name])
    return _Parts(*mnist.load_arrays(name, data_dir), normalized, build_model)

  return _Recipe(central=load)


def _qmnist(build_model: Callable) -> _Recipe:
  def load(data_dir: str | None) -> _Parts:
    normalized = _normalized(*mnist.MEAN_AND_STD['mnist'])
    return _Parts(*qmnist.load_data(data_dir), normalized, build_model)

  return _Recipe(natural=load)


def _cifar10(build_model: Callable) -> _Recipe:
  def load(data_dir: str | None) -> _Parts:
    return _Parts(*cifar.load_arrays(data_dir), _normalized(cifar.MEAN, cifar.STD), build_model)

  return _Recipe(central=load)


def _keywords(by_speaker: bool) -> Callable[[str | None], _Parts]:
  def load(data_dir: str | None) -> _Parts:
    data = keywords.load_data(data_dir)
    x = data.train.x
    # Each feature over all frames; a constant one stays as it is, at 0.
    std = x.std((0, 1))
    preprocess = _normalized(x.mean((0, 1)), np.where(std > 0, std, 1))
    build_model = functools.partial(models.build_keyword_lstm, x.shape[1:], data.num_classes)
    train = data.by_speaker() if by_speaker else data.train
    return _Parts(train, data.test, preprocess, build_model)

  return load


# A name is a data set with its usual model, or followed by another model.
_RECIPES = collections.OrderedDict(
  digits=_Recipe(central=_digits),
  mnist=_mnist_like('mnist'),
  mnist_two_fc=_mnist_like('mnist', models.build_two_fc),
  fashion_mnist=_mnist_like('fashion_mnist'),
  fashion_mnist_two_fc=_mnist_like('fashion_mnist', models.build_two_fc),
  qmnist=_qmnist(models.build_cnn),
  qmnist_two_fc=_qmnist(models.build_two_fc),
  cifar10=_cifar10(models.build_lenet5),
  cifar10_cnn=_cifar10(models.build_cnn),
  cifar10_resnet18=_cifar10(models.build_resnet18),
  cifar10_vgg16=_cifar10(models.build_vgg16),
  cifar10_vgg16_quarter=_cifar10(functools.partial(models.build_vgg16, width_multiplier=0.25)),
  keywords=_Recipe(central=_keywords(by_speaker=False), natural=_keywords(by_speaker=True)),
)

NAMES = tuple(_RECIPES)

NATURAL = 'natural'


def check_partition(name: str, partition: str) -> None:
  """Raises ValueError if `partition` is none of those that the task called `name` has."""
  recipe = _RECIPES[name]
  if partition != NATURAL or recipe.natural is None:
    partition_lib.parse(partition)
  if partition != NATURAL and recipe.central is None:
    raise ValueError(
      f'{name} has clients of its own: the partition must be `{NATURAL}`, found {partition!r}.'
    )


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
    partition: How to split the training examples, see `datasets.partition.parse`; or `'natural'`
      for the data set's own clients, such as writers or speakers, where it has them.
    num_clients: Over how many clients; of natural ones how many, which the seed decides, 0 for all.
    seed: Decides the partition.
    data_dir: Where the data set's files are, for all but the embedded one.
    client_test_fraction: In [0, 1): the share of each client's own examples that it does not
      train on but tests on; 0 holds none out. See `ExampleClientData.held_out`.
    model_family: The family of the model's layers; see `models.families.LayerFamily`.
    gamma: In [0, 1], FedPara's rank hyper-parameter, of a factorised family.

  Raises:
    FileNotFoundError: If the data set's files are missing.
    ValueError: If an argument has an impossible value or a file is damaged.
  """
  checks.check_one_of('name', name, NAMES)
  check_partition(name, partition)
  families.LayerFamily(model_family, gamma)  # Raises if they do not go together.
  checks.check_in_range('client_test_fraction', client_test_fraction, 0, 1)
  if client_test_fraction == 1:
    raise ValueError('`client_test_fraction` must be below 1, found 1.')
  if partition == NATURAL:
    parts = _RECIPES[name].natural(data_dir)
    train = parts.train.sample(num_clients, seed) if num_clients else parts.train
  else:
    parts = _RECIPES[name].central(data_dir)
    indices = partition_lib.parse(partition)(parts.train.y, num_clients, seed)
    train = arrays.partitioned(parts.train, indices)
  client_test = None
  if client_test_fraction:
    train, client_test = train.held_out(client_test_fraction, seed)
  keras_model_fn = functools.partial(parts.build_model, family=model_family, gamma=gamma)
  return Task(name, train, parts.test, parts.preprocess, keras_model_fn, client_test)
