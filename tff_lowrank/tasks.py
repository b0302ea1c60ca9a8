"""Tasks: a federated data set with its model, loss and metrics."""

import collections
from collections.abc import Callable
import dataclasses
import functools
import inspect
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import models
from tff_lowrank import objectives
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import digits
from tff_lowrank.datasets import emnist
from tff_lowrank.datasets import keywords
from tff_lowrank.datasets import mnist
from tff_lowrank.datasets import partition as partition_lib
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import qmnist
from tff_lowrank.datasets import shakespeare
from tff_lowrank.datasets import stackexchange
from tff_lowrank.datasets import stackoverflow
from tff_lowrank.datasets import tff_files
from tff_lowrank.models import families
from tff_lowrank.models import keyed
from tff_lowrank.models import requirements

# A `data_dir` that stands for a few examples, made up or TFF's, instead of the data set's files: to
# see that a task runs. What it then learns means nothing.
SYNTHETIC = tff_files.SYNTHETIC


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

  def build_model(self, seed: int) -> tff.learning.models.FunctionalModel:
    """The model, with initial weights that `seed` decides. Its metrics: the objective's.

    What is minimised is the objective's loss plus the model's own losses, as of regularisers.
    If the model has a `layers.StatelessDropout`, its batches have a key; see `models.keyed`.

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
    model, input_spec = keyed.for_functional(
      keras_model,
      tf.nest.map_structure(lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), prepared),
    )
    return tff.learning.models.functional_model_from_keras(
      model,
      loss_fn=self.objective.loss,
      input_spec=input_spec,
      metrics_constructor=self.objective.metrics,
    )


class _Parts(NamedTuple):
  """What a data set gives a task: as `Task` has it, but for `train` before it is partitioned.

  build_model: `(family=..., gamma=..., tanh=...) -> keras.Model`.
  """

  train: arrays.Split | arrays.ExampleClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  build_model: Callable[..., tf.keras.Model]
  objective: objectives.Objective = objectives.CLASSIFICATION
  eval_batch_size: int = 1000


_Load = Callable[[str | None], _Parts]


class _Recipe(NamedTuple):
  """How to load a task's parts from `data_dir`; None for what it does not have.

  central: gives training examples to partition. natural: gives clients of the data set's own.
  """

  central: _Load | None = None
  natural: _Load | None = None


def _as_stored(batch: Any) -> Any:
  return batch


def _normalized(mean: Any, std: Any) -> Callable[[Any], Any]:
  def preprocess(batch: Any) -> Any:
    x = (tf.cast(batch['x'], tf.float32) - mean) / std
    return collections.OrderedDict(x=x, y=batch['y'])

  return preprocess


def _cropped(batch: Any) -> Any:
  """The inner 24 of 32 rows and columns, of mean 0 and deviation 1 each: TFF's for CIFAR-100."""
  inner = tf.cast(batch['x'][:, 4:28, 4:28], tf.float32)
  return collections.OrderedDict(x=tf.image.per_image_standardization(inner), y=batch['y'])


def _bag_of_words(num_words: int) -> Callable[[Any], Any]:
  """Word numbers as the share that each of `num_words` has; higher numbers do not count."""

  def preprocess(batch: Any) -> Any:
    counts = tf.math.bincount(
      batch['x'], minlength=num_words, maxlength=num_words, dtype=tf.float32, axis=-1
    )
    counts = tf.reshape(counts, [-1, num_words])
    shares = tf.math.divide_no_nan(counts, tf.reduce_sum(counts, -1, keepdims=True))
    return collections.OrderedDict(x=shares, y=batch['y'])

  return preprocess


def _digits(data_dir: str | None) -> _Parts:
  del data_dir  # Embedded.
  preprocess = _normalized(0.0, digits.MAX_VALUE)
  return _Parts(*digits.load_arrays(), preprocess, functools.partial(models.build_mlp, (8, 8, 1)))


def _mnist_like(name: str, build_model: Callable = models.build_cnn) -> _Recipe:
  def load(data_dir: str | None) -> _Parts:
    if data_dir == SYNTHETIC:
      data = arrays.made_up((28, 28, 1), 10)
    else:
      data = mnist.load_arrays(name, data_dir)
    return _Parts(*data, _normalized(*mnist.MEAN_AND_STD[name]), build_model)

  return _Recipe(central=load)


def _qmnist(build_model: Callable) -> _Recipe:
  def load(data_dir: str | None) -> _Parts:
    if data_dir == SYNTHETIC:
      made_up, test = arrays.made_up((28, 28, 1), 10)
      train = arrays.partitioned(made_up, np.array_split(np.arange(len(made_up.y)), 4))
    else:
      train, test = qmnist.load_data(data_dir)
    return _Parts(train, test, _normalized(*mnist.MEAN_AND_STD['mnist']), build_model)

  return _Recipe(natural=load)


def _emnist(only_digits: bool, build_model: Callable) -> _Recipe:
  def load(data_dir: str | None) -> _Parts:
    return _Parts(*emnist.load_data(data_dir, only_digits), _as_stored, build_model)

  return _Recipe(natural=load)


def _cifar(name: str, build_model: Callable, preprocess: Callable) -> _Load:
  def load(data_dir: str | None) -> _Parts:
    if data_dir == SYNTHETIC:
      data = arrays.made_up((32, 32, 3), cifar.NUM_CLASSES[name])
    else:
      data = cifar.load_arrays(data_dir, name)
    return _Parts(*data, preprocess, build_model)

  return load


def _whole_cifar(build_model: Callable, name: str = 'cifar10') -> _Recipe:
  return _Recipe(central=_cifar(name, build_model, _normalized(cifar.MEAN, cifar.STD)))


def _cifar100() -> _Recipe:
  build_model = functools.partial(models.build_resnet18, (24, 24, 3), cifar.NUM_CLASSES['cifar100'])

  def load_pachinko(data_dir: str | None) -> _Parts:
    return _Parts(*cifar.load_pachinko(data_dir), _cropped, build_model)

  return _Recipe(central=_cifar('cifar100', build_model, _cropped), natural=load_pachinko)


def _keywords(by_speaker: bool) -> _Load:
  def load(data_dir: str | None) -> _Parts:
    data = keywords.made_up() if data_dir == SYNTHETIC else keywords.load_data(data_dir)
    x = data.train.x
    # Each feature over all frames; a constant one stays as it is, at 0.
    std = x.std((0, 1))
    preprocess = _normalized(x.mean((0, 1)), np.where(std > 0, std, 1))
    build_model = functools.partial(models.build_keyword_lstm, x.shape[1:], data.num_classes)
    train = data.by_speaker() if by_speaker else data.train
    return _Parts(train, data.test, preprocess, build_model)

  return load


def _shakespeare(data_dir: str | None) -> _Parts:
  build_model = functools.partial(
    models.build_char_lstm, shakespeare.VOCABULARY_SIZE, mask_zero=True
  )
  objective = objectives.next_token(shakespeare.PADDING)
  return _Parts(*shakespeare.load_data(data_dir), _as_stored, build_model, objective, 200)


def _next_word(load: Callable[[str | None], tuple], **sizes: int) -> _Recipe:
  """`load` gives training and test examples, and the `posts.NextWord` that made them."""

  def load_parts(data_dir: str | None) -> _Parts:
    train, test, words = load(data_dir)
    objective = objectives.next_token(posts.PADDING, words.out_of_vocabulary, words.end)
    build_model = functools.partial(models.build_word_lstm, words.num_tokens, **sizes)
    return _Parts(train, test, _as_stored, build_model, objective, 100)

  return _Recipe(natural=load_parts)


def _tags(load: Callable[[str | None], tuple]) -> _Recipe:
  """`load` gives training and test examples, and the `posts.Tags` that made them."""

  def load_parts(data_dir: str | None) -> _Parts:
    train, test, words = load(data_dir)
    build_model = functools.partial(models.build_mlp, (words.num_words,), (), words.num_tags)
    preprocess = _bag_of_words(words.num_words)
    return _Parts(train, test, preprocess, build_model, objectives.MULTI_LABEL, 500)

  return _Recipe(natural=load_parts)


def _stackoverflow_nwp(data_dir: str | None) -> tuple:
  words = posts.NextWord(stackoverflow.load_vocabulary(data_dir))
  return *stackoverflow.load_data(data_dir, words), words


def _stackoverflow_tags(data_dir: str | None) -> tuple:
  words = posts.Tags(stackoverflow.load_vocabulary(data_dir), stackoverflow.load_tags(data_dir))
  return *stackoverflow.load_data(data_dir, words), words


def _stackexchange_nwp(data_dir: str | None, num_words: int = posts.VOCABULARY_SIZE) -> tuple:
  users = stackexchange.load_users(data_dir)
  words = posts.NextWord(users.vocabulary[:num_words])
  return *stackexchange.load_data(users, words), words


def _stackexchange_tags(data_dir: str | None) -> tuple:
  users = stackexchange.load_users(data_dir, questions=True)
  words = posts.Tags(users.vocabulary, users.tags)
  return *stackexchange.load_data(users, words), words


# A name is a data set with its usual model, or followed by another model.
_RECIPES = collections.OrderedDict(
  digits=_Recipe(central=_digits),
  mnist=_mnist_like('mnist'),
  mnist_two_fc=_mnist_like('mnist', models.build_two_fc),
  fashion_mnist=_mnist_like('fashion_mnist'),
  fashion_mnist_two_fc=_mnist_like('fashion_mnist', models.build_two_fc),
  qmnist=_qmnist(models.build_cnn),
  qmnist_two_fc=_qmnist(models.build_two_fc),
  emnist_digits=_emnist(True, functools.partial(models.build_emnist_cnn, 10)),
  emnist=_emnist(False, models.build_emnist_cnn),
  emnist_two_fc=_emnist(False, functools.partial(models.build_two_fc, num_classes=62)),
  cifar10=_whole_cifar(models.build_lenet5),
  cifar10_cnn=_whole_cifar(functools.partial(models.build_cnn, (32, 32, 3))),
  cifar10_resnet18=_whole_cifar(models.build_resnet18),
  cifar10_vgg16=_whole_cifar(models.build_vgg16),
  cifar10_vgg16_quarter=_whole_cifar(functools.partial(models.build_vgg16, width_multiplier=0.25)),
  cifar100=_cifar100(),
  cifar100_vgg16=_whole_cifar(functools.partial(models.build_vgg16, num_classes=100), 'cifar100'),
  shakespeare=_Recipe(natural=_shakespeare),
  stackoverflow_nwp=_next_word(_stackoverflow_nwp),
  stackoverflow_tags=_tags(_stackoverflow_tags),
  stackexchange_nwp=_next_word(_stackexchange_nwp),
  stackexchange_nwp_small=_next_word(
    functools.partial(_stackexchange_nwp, num_words=2000), embedding_size=64, hidden_size=128
  ),
  stackexchange_tags=_tags(_stackexchange_tags),
  keywords=_Recipe(central=_keywords(by_speaker=False), natural=_keywords(by_speaker=True)),
)

NAMES = tuple(_RECIPES)

NATURAL = 'natural'


def simple_partitions(name: str) -> list[str]:
  """Those of `'natural'` and `'iid'` that the task called `name` has."""
  recipe = _RECIPES[name]
  return [NATURAL] * (recipe.natural is not None) + ['iid'] * (recipe.central is not None)


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
  tanh: bool = False,
  head_rank: int | None = None,
) -> Task:
  """Loads the task called `name`.

  Args:
    name: One of `NAMES`.
    partition: How to split the training examples, see `datasets.partition.parse`; or `'natural'`
      for the data set's own clients, such as writers or speakers, where it has them.
    num_clients: Over how many clients; of natural ones how many, which the seed decides, 0 for all.
    seed: Decides the partition.
    data_dir: Where the data set's files are, for all but the embedded one; or `SYNTHETIC`.
    client_test_fraction: In [0, 1): the share of each client's own examples that it does not
      train on but tests on; 0 holds none out. See `ExampleClientData.held_out`.
    model_family: The family of the model's layers; see `models.families.LayerFamily`.
    gamma: In [0, 1], FedPara's rank hyper-parameter, of a factorised family.
    tanh: Whether kernels are products of tanh of the terms, as in FedPara's experiments, of family
      `'fedpara'`.
    head_rank: Of the factors of the last layer, in place of gamma's, for the two-layer nets.

  Raises:
    FileNotFoundError: If the data set's files are missing.
    ValueError: If an argument has an impossible value or a file is damaged.
  """
  checks.check_one_of('name', name, NAMES)
  check_partition(name, partition)
  families.LayerFamily(model_family, gamma, tanh)  # Raises if they do not go together.
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
  keras_model_fn = functools.partial(parts.build_model, family=model_family, gamma=gamma, tanh=tanh)
  if head_rank is not None:
    if 'head_rank' not in inspect.signature(keras_model_fn).parameters:
      raise ValueError(f'The model of {name} takes no `head_rank`.')
    keras_model_fn = functools.partial(keras_model_fn, head_rank=head_rank)
  return Task(
    name,
    train,
    parts.test,
    parts.preprocess,
    keras_model_fn,
    client_test,
    parts.objective,
    parts.eval_batch_size,
  )
