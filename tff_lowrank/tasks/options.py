"""Options that every task can be given, whoever made it."""

from collections.abc import Callable
import dataclasses
import functools
import inspect

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import layers
from tff_lowrank.models import families
from tff_lowrank.tasks import task as task_lib


def check(client_test_fraction: float, model_family: str, gamma: float | None, tanh: bool) -> None:
  """Raises ValueError for values of these arguments of `prepare` that no task can have."""
  families.LayerFamily(model_family, gamma, tanh)  # Raises if they do not go together.
  checks.check_in_range('client_test_fraction', client_test_fraction, 0, 1)
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
) -> task_lib.Task:
  """The task with fewer clients, examples held out, or a factorised model.

  Args:
    task: Any; it is not changed.
    num_clients: How many of its clients, which the seed decides; None or 0 for all.
    seed: Decides the clients, and the examples that are held out.
    client_test_fraction: In [0, 1): the share of each client's own examples that it does not
      train on but tests on; 0 holds none out. See `ExampleClientData.held_out`.
    model_family: Of `models.families.FAMILIES`. All but `'original'` build the model with such
      layers where `keras_model_fn` takes a `family`, as named tasks' do, or else convert it, each
      time that it is built, by `layers.to_fedpara` or `layers.to_low_rank`, whose `Conversion`
      says what becomes of each layer. All weights are initialised anew.
    gamma: In [0, 1], FedPara's rank hyper-parameter, for all families but `'original'`.
    tanh: Whether kernels are products of tanh of the terms, of family `'fedpara'`.

  Raises:
    ValueError: If an argument has an impossible value, there are fewer clients, the task has test
      examples of clients already and is to hold out others, or no layer of its model can be
      converted.
  """
  check(client_test_fraction, model_family, gamma, tanh)
  train, client_test, keras_model_fn = task.train, task.client_test, task.keras_model_fn
  if num_clients:
    checks.check_at_least('num_clients', num_clients, 1)
    train = train.sample(num_clients, seed)
    client_test = None if client_test is None else client_test.only(train.client_ids)
  if client_test_fraction:
    if client_test is not None:
      raise ValueError(
        f'The clients of {task.name} have test examples of their own: `client_test_fraction` must '
        f'be 0, found {client_test_fraction}.'
      )
    train, client_test = train.held_out(client_test_fraction, seed)
  if model_family != 'original':
    keras_model_fn = _converted(task, model_family, gamma, tanh)
    keras_model_fn()  # Raises if no layer can be converted.
  return dataclasses.replace(
    task, train=train, client_test=client_test, keras_model_fn=keras_model_fn
  )


def _converted(
  task: task_lib.Task, model_family: str, gamma: float | None, tanh: bool
) -> Callable[[], tf.keras.Model]:
  if 'family' in inspect.signature(task.keras_model_fn).parameters:  # As this package's models.
    return functools.partial(task.keras_model_fn, family=model_family, gamma=gamma, tanh=tanh)

  def build() -> tf.keras.Model:
    model = task.keras_model_fn()
    try:
      if model_family == 'low_rank':
        return layers.to_low_rank(model, gamma=gamma).model
      personal = model_family == 'pfedpara'
      return layers.to_fedpara(model, gamma=gamma, personal=personal, tanh=tanh).model
    except (TypeError, ValueError) as e:
      raise ValueError(f'The model of {task.name} has no form of {model_family}: {e}') from e

  return build
