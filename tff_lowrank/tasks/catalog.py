"""The named tasks: data set, model and objective of each."""

import collections
from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import models
from tff_lowrank import objectives
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import digits
from tff_lowrank.datasets import emnist
from tff_lowrank.datasets import keywords
from tff_lowrank.datasets import mnist
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import qmnist
from tff_lowrank.datasets import shakespeare
from tff_lowrank.datasets import stackexchange
from tff_lowrank.datasets import stackoverflow
from tff_lowrank.datasets import tff_files
from tff_lowrank.tasks import task as task_lib

# A `data_dir` that means a few synthetic examples (or TFF's) instead of the data set's files, to
# test that a task runs. The results are meaningless.
SYNTHETIC = tff_files.SYNTHETIC


class Parts(NamedTuple):
  """The parts of a task from a data set, as in `Task`, but with `train` before partitioning.

  build_model: `(family=..., gamma=..., tanh=...) -> keras.Model`.
  """

  train: arrays.Split | arrays.ExampleClientData
  test: arrays.Split
  preprocess: Callable[[Any], Any]
  build_model: Callable[..., tf.keras.Model]
  objective: objectives.Objective = objectives.CLASSIFICATION
  eval_batch_size: int = 1000


Load = Callable[[str | None], Parts]


class Recipe(NamedTuple):
  """Functions that load a task's parts from `data_dir`; None if not supported.

  central: returns training examples to partition. natural: returns the data set's natural clients.
  """

  central: Load | None = None
  natural: Load | None = None


def _normalized(mean: Any, std: Any) -> Callable[[Any], Any]:
  def preprocess(batch: Any) -> Any:
    x = (tf.cast(batch['x'], tf.float32) - mean) / std
    return collections.OrderedDict(x=x, y=batch['y'])

  return preprocess


def _cropped(batch: Any) -> Any:
  """The inner 24 of 32 rows and columns, each image standardised; as TFF does for CIFAR-100."""
  inner = tf.cast(batch['x'][:, 4:28, 4:28], tf.float32)
  return collections.OrderedDict(x=tf.image.per_image_standardization(inner), y=batch['y'])


def _bag_of_words(num_words: int) -> Callable[[Any], Any]:
  """Word ids to the frequencies of `num_words` words; higher ids are ignored."""

  def preprocess(batch: Any) -> Any:
    counts = tf.math.bincount(
      batch['x'], minlength=num_words, maxlength=num_words, dtype=tf.float32, axis=-1
    )
    counts = tf.reshape(counts, [-1, num_words])
    shares = tf.math.divide_no_nan(counts, tf.reduce_sum(counts, -1, keepdims=True))
    return collections.OrderedDict(x=shares, y=batch['y'])

  return preprocess


def _digits(data_dir: str | None) -> Parts:
  del data_dir  # Embedded.
  preprocess = _normalized(0.0, digits.MAX_VALUE)
  return Parts(*digits.load_arrays(), preprocess, functools.partial(models.build_mlp, (8, 8, 1)))


def _mnist_like(name: str, build_model: Callable = models.build_cnn) -> Recipe:
  def load(data_dir: str | None) -> Parts:
    if data_dir == SYNTHETIC:
      data = arrays.made_up((28, 28, 1), 10)
    else:
      data = mnist.load_arrays(name, data_dir)
    return Parts(*data, _normalized(*mnist.MEAN_AND_STD[name]), build_model)

  return Recipe(central=load)


def _qmnist(build_model: Callable) -> Recipe:
  def load(data_dir: str | None) -> Parts:
    if data_dir == SYNTHETIC:
      made_up, test = arrays.made_up((28, 28, 1), 10)
      train = arrays.partitioned(made_up, np.array_split(np.arange(len(made_up.y)), 4))
    else:
      train, test = qmnist.load_data(data_dir)
    return Parts(train, test, _normalized(*mnist.MEAN_AND_STD['mnist']), build_model)

  return Recipe(natural=load)


def _emnist(only_digits: bool, build_model: Callable) -> Recipe:
  def load(data_dir: str | None) -> Parts:
    return Parts(*emnist.load_data(data_dir, only_digits), task_lib.as_stored, build_model)

  return Recipe(natural=load)


def _cifar(name: str, build_model: Callable, preprocess: Callable) -> Load:
  def load(data_dir: str | None) -> Parts:
    if data_dir == SYNTHETIC:
      data = arrays.made_up((32, 32, 3), cifar.NUM_CLASSES[name])
    else:
      data = cifar.load_arrays(data_dir, name)
    return Parts(*data, preprocess, build_model)

  return load


def _whole_cifar(build_model: Callable, name: str = 'cifar10') -> Recipe:
  return Recipe(central=_cifar(name, build_model, _normalized(cifar.MEAN, cifar.STD)))


def _cifar100() -> Recipe:
  build_model = functools.partial(models.build_resnet18, (24, 24, 3), cifar.NUM_CLASSES['cifar100'])

  def load_pachinko(data_dir: str | None) -> Parts:
    return Parts(*cifar.load_pachinko(data_dir), _cropped, build_model)

  return Recipe(central=_cifar('cifar100', build_model, _cropped), natural=load_pachinko)


def _keywords(build_model: Callable) -> Recipe:
  def load(by_speaker: bool, data_dir: str | None) -> Parts:
    data = keywords.made_up() if data_dir == SYNTHETIC else keywords.load_data(data_dir)
    x = data.train.x
    # Each feature over all frames; a constant feature stays 0.
    std = x.std((0, 1))
    preprocess = _normalized(x.mean((0, 1)), np.where(std > 0, std, 1))
    build = functools.partial(build_model, x.shape[1:], data.num_classes)
    return Parts(data.by_speaker() if by_speaker else data.train, data.test, preprocess, build)

  return Recipe(central=functools.partial(load, False), natural=functools.partial(load, True))


def _shakespeare(data_dir: str | None) -> Parts:
  build_model = functools.partial(
    models.build_char_lstm, shakespeare.VOCABULARY_SIZE, mask_zero=True
  )
  objective = objectives.next_token(shakespeare.PADDING)
  return Parts(*shakespeare.load_data(data_dir), task_lib.as_stored, build_model, objective, 200)


def _next_word(load: Callable[[str | None], tuple], **sizes: int) -> Recipe:
  """`load` returns training and test examples, and the `posts.NextWord` that made them."""

  def load_parts(data_dir: str | None) -> Parts:
    train, test, words = load(data_dir)
    objective = objectives.next_token(posts.PADDING, words.out_of_vocabulary, words.end)
    build_model = functools.partial(models.build_word_lstm, words.num_tokens, **sizes)
    return Parts(train, test, task_lib.as_stored, build_model, objective, 100)

  return Recipe(natural=load_parts)


def _tags(load: Callable[[str | None], tuple]) -> Recipe:
  """`load` returns training and test examples, and the `posts.Tags` that made them."""

  def load_parts(data_dir: str | None) -> Parts:
    train, test, words = load(data_dir)
    build_model = functools.partial(models.build_mlp, (words.num_words,), (), words.num_tags)
    preprocess = _bag_of_words(words.num_words)
    return Parts(train, test, preprocess, build_model, objectives.MULTI_LABEL, 500)

  return Recipe(natural=load_parts)


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


# The name is that of the data set, for its usual model, or has the model as suffix.
RECIPES = collections.OrderedDict(
  digits=Recipe(central=_digits),
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
  shakespeare=Recipe(natural=_shakespeare),
  stackoverflow_nwp=_next_word(_stackoverflow_nwp),
  stackoverflow_tags=_tags(_stackoverflow_tags),
  stackexchange_nwp=_next_word(_stackexchange_nwp),
  stackexchange_nwp_small=_next_word(
    functools.partial(_stackexchange_nwp, num_words=2000), embedding_size=64, hidden_size=128
  ),
  stackexchange_tags=_tags(_stackexchange_tags),
  keywords=_keywords(models.build_keyword_lstm),
  keywords_two_fc=_keywords(models.build_two_fc),
)

NAMES = tuple(RECIPES)
# Tasks whose examples come with a package, so they take no `data_dir`.
EMBEDDED = ('digits',)
