"""Builds a task from its name, or from the name of a function that returns it."""

from collections.abc import Mapping
import functools
import inspect
from typing import Any

from tff_lowrank import objects
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import partition as partition_lib
from tff_lowrank.tasks import catalog
from tff_lowrank.tasks import functions
from tff_lowrank.tasks import options
from tff_lowrank.tasks import task as task_lib

NATURAL = 'natural'


def check_name(name: str) -> None:
  """Raises ValueError unless `name` is in `NAMES`, or has the form `package.module:function`."""
  if name not in catalog.NAMES and not objects.is_name(name):
    listed = ', '.join(repr(known) for known in catalog.NAMES)
    raise ValueError(
      f'`name` must be one of {listed}, or `package.module:function`, found {name!r}.'
    )


def simple_partitions(name: str) -> list[str]:
  """Which of `'natural'` and `'iid'` the task `name` supports, its default first.

  Raises ValueError as `check_name`.
  """
  check_name(name)
  if name not in catalog.NAMES:
    return [NATURAL]
  recipe = catalog.RECIPES[name]
  return [NATURAL] * (recipe.natural is not None) + ['iid'] * (recipe.central is not None)


def default_partition(name: str) -> str:
  """`'natural'` if the task `name` has natural clients, else `'iid'`.

  Natural clients are the writers, speakers, roles or users in the data; for `cifar100`, TFF's 500
  clients by Pachinko allocation. Raises ValueError as `check_name`.
  """
  return simple_partitions(name)[0]


def default_num_clients(partition: str) -> int:
  """The default number of clients of a partition; 0 for `'natural'`, which means all."""
  return 0 if partition == NATURAL else 100


def check_partition(name: str, partition: str | None) -> None:
  """Raises ValueError unless the task `name` supports `partition`."""
  simple = simple_partitions(name)
  if partition is None or (partition == NATURAL and NATURAL in simple):
    return
  if partition != NATURAL or 'iid' in simple:
    partition_lib.parse(partition)
  if 'iid' not in simple:
    raise ValueError(
      f'{name} has natural clients: the partition must be `{NATURAL}`, found {partition!r}.'
    )


def source(name: str) -> dict[str, str]:
  """Identifies the version of the code of the task `name`, for the record of a run.

  Returns:
    Empty for one of `NAMES`, which has the version of this package. For `package.module:function`:
    `file` and `sha256` of the module's file, and, if the file belongs to an installed distribution,
    the `distribution` and its `version`. The imports of the module are not included.

  Raises:
    ValueError: As `check_name`, or if there is no such function.
  """
  check_name(name)
  return {} if name in catalog.NAMES else objects.source(name)


def build(
  name: str,
  *,
  partition: str | None = None,
  num_clients: int | None = None,
  seed: int,
  data_dir: str | None = None,
  client_test_fraction: float = 0.0,
  model_family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
  head_rank: int | None = None,
  initialization: str = 'default',
  task_args: Mapping[str, Any] | None = None,
) -> task_lib.Task:
  """Loads the task `name`.

  Args:
    name: One of `NAMES`; or `package.module:function`, a function that returns a `Task`, from a
      module in `sys.path` or in the current folder.
    partition: How to split the training examples, see `datasets.partition.parse`; or `'natural'`
      for the data set's natural clients, such as writers or speakers, if it has them. None is
      `default_partition(name)`. A function's task has only its own clients.
    num_clients: The number of clients, 100 if None. With `'natural'`, this many natural clients,
      chosen by the seed; all if 0 or None.
    seed: Seeds the partition or the choice of clients, and the choice of held-out examples.
    data_dir: The folder of the data set's files, for all but the embedded data set; or `SYNTHETIC`.
      Passed to a function as its argument `data_dir`.
    client_test_fraction: In [0, 1): the fraction of each client's examples to hold out as its test
      set; 0 holds none out. See `ExampleClientData.held_out`.
    model_family: The family of the model's layers; see `models.families.LayerFamily`. A function's
      model is converted, see `prepare`.
    gamma: In [0, 1], FedPara's rank hyper-parameter, for factorised families.
    tanh: Whether to apply tanh to both low-rank matrices of a kernel, as in FedPara's experiments,
      for family `'fedpara'`.
    head_rank: The rank of the last layer, instead of that from gamma, for the two-layer nets.
    initialization: One of `models.initializations.INITIALIZATIONS`; see `prepare`.
    task_args: The function's arguments by name. Texts are converted to the annotated type of the
      parameter or, without annotation, to the type of its default: int, float, bool, str or None.

  Raises:
    FileNotFoundError: If the data set's files are missing.
    ValueError: If the value of an argument is invalid, there is no such task, or a file is damaged.
  """
  check_partition(name, partition)
  options.check(client_test_fraction, model_family, gamma, tanh, initialization)
  common: dict[str, Any] = dict(
    seed=seed, client_test_fraction=client_test_fraction, initialization=initialization
  )
  if name not in catalog.NAMES:
    if head_rank is not None:
      raise ValueError(f'The model of {name} takes no `head_rank`.')
    arguments = {} if data_dir is None else dict(data_dir=data_dir)
    task = functions.load(name, arguments | dict(task_args or {}))
    family: dict[str, Any] = dict(model_family=model_family, gamma=gamma, tanh=tanh)
    return options.prepare(task, num_clients=num_clients, **common, **family)
  if task_args:
    raise ValueError(f'{name} takes no `task_args`, found {", ".join(task_args)}.')
  train: Any
  partition = default_partition(name) if partition is None else partition
  if partition == NATURAL:
    load = catalog.RECIPES[name].natural
    assert load is not None  # Both are as `check_partition` says.
    parts = load(data_dir)
    train = parts.train
  else:
    load = catalog.RECIPES[name].central
    assert load is not None
    parts = load(data_dir)
    count = default_num_clients(partition) if num_clients is None else num_clients
    indices = partition_lib.parse(partition)(parts.train.y, count, seed)
    train, num_clients = arrays.partitioned(parts.train, indices), None
  keras_model_fn = functools.partial(parts.build_model, family=model_family, gamma=gamma, tanh=tanh)
  if head_rank is not None:
    if 'head_rank' not in inspect.signature(keras_model_fn).parameters:
      raise ValueError(f'The model of {name} takes no `head_rank`.')
    keras_model_fn = functools.partial(keras_model_fn, head_rank=head_rank)
  task = task_lib.Task(
    name,
    train,
    parts.test,
    parts.preprocess,
    keras_model_fn,
    objective=parts.objective,
    eval_batch_size=parts.eval_batch_size,
  )
  return options.prepare(task, num_clients=num_clients, **common)
