"""Options that apply to every task, including users' own tasks."""

from collections.abc import Callable
import dataclasses
import functools
import inspect

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import layers
from tff_lowrank.models import families
from tff_lowrank.models import initializations
from tff_lowrank.tasks import task as task_lib


def check(
  client_test_fraction: float,
  model_family: str,
  gamma: float | None,
  tanh: bool,
  initialization: str = 'default',
) -> None:
  """Raises ValueError if these arguments of `prepare` are invalid for any task."""
  families.LayerFamily(model_family, gamma, tanh)  # Raises if they contradict.
  checks.check_in_range('client_test_fraction', client_test_fraction, 0, 1)
  checks.check_one_of('initialization', initialization, initializations.INITIALIZATIONS)
  if client_test_fraction == 1:
    raise ValueError('`client_test_fraction` must be below 1, found 1.')


def prepare(
  task: task_lib.Task,
  *,
  num_clients: int | None = None,
  seed: int,
  client_test_fraction: float = 0.0,
  model_family: str = 'original',
  gamma: float | None = None,
  tanh: bool = False,
  initialization: str = 'default',
) -> task_lib.Task:
  """The task with fewer clients, examples held out, or another model or initialization.

  Args:
    task: Any task; it is not changed.
    num_clients: Use this many of its clients, chosen by the seed; None or 0 for all.
    seed: Seeds the choice of clients and of held-out examples.
    client_test_fraction: In [0, 1): the fraction of each client's examples to hold out as its test
      set; 0 holds none out. See `ExampleClientData.held_out`.
    model_family: One of `models.families.FAMILIES`. Families other than `'original'` build the
      model with such layers if `keras_model_fn` takes a `family`, as in named tasks. Otherwise each
      built model is converted by `layers.to_fedpara` or `layers.to_low_rank`, whose `Conversion`
      reports on each layer. All weights are initialised again.
    gamma: In [0, 1], FedPara's rank hyper-parameter, for all families but `'original'`.
    tanh: Whether to apply tanh to both low-rank matrices of a kernel, for family `'fedpara'`.
    initialization: `'uniform_fan_in'` for `models.initializations.with_uniform_fan_in`.

  Raises:
    ValueError: If the value of an argument is invalid, there are too few clients, examples are to
      be held out but the task already has test examples of clients, no layer of its model can be
      converted, or the initialization applies to none.
  """
  check(client_test_fraction, model_family, gamma, tanh, initialization)
  train, client_test, keras_model_fn = task.train, task.client_test, task.keras_model_fn
  if num_clients:
    checks.check_at_least('num_clients', num_clients, 1)
    train = train.sample(num_clients, seed)
    client_test = None if client_test is None else client_test.only(train.client_ids)
  if client_test_fraction:
    if client_test is not None:
      raise ValueError(
        f'The clients of {task.name} already have test examples: `client_test_fraction` must '
        f'be 0, found {client_test_fraction}.'
      )
    train, client_test = train.held_out(client_test_fraction, seed)
  if model_family != 'original':
    keras_model_fn = _converted(task, model_family, gamma, tanh)
    keras_model_fn()  # Raises if no layer can be converted.
  if initialization != 'default':
    keras_model_fn = functools.partial(_initialized, keras_model_fn)
    keras_model_fn()  # Raises if it applies to no layer.
  return dataclasses.replace(
    task, train=train, client_test=client_test, keras_model_fn=keras_model_fn
  )


def _initialized(keras_model_fn: Callable[[], tf.keras.Model]) -> tf.keras.Model:
  return initializations.with_uniform_fan_in(keras_model_fn())


def _converted(
  task: task_lib.Task, model_family: str, gamma: float | None, tanh: bool
) -> Callable[[], tf.keras.Model]:
  if 'family' in inspect.signature(task.keras_model_fn).parameters:  # As for this package's models.
    return functools.partial(task.keras_model_fn, family=model_family, gamma=gamma, tanh=tanh)

  def build() -> tf.keras.Model:
    model = task.keras_model_fn()
    try:
      if model_family == 'low_rank':
        return layers.to_low_rank(model, gamma=gamma).model
      personal = model_family == 'pfedpara'
      return layers.to_fedpara(model, gamma=gamma, personal=personal, tanh=tanh).model
    except (TypeError, ValueError) as e:
      raise ValueError(
        f'The model of {task.name} cannot be converted to {model_family}: {e}'
      ) from e

  return build
