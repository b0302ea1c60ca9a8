"""Creates a task from your own examples and Keras model."""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank import objectives
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import user_data
from tff_lowrank.datasets import user_frames
from tff_lowrank.tasks import task as task_lib

ByClient: TypeAlias = (
  tff.simulation.datasets.ClientData | Mapping[Any, tuple | Mapping[str, Any]] | pd.DataFrame
)
Central: TypeAlias = tuple[Any, Any] | Mapping[str, Any] | tf.data.Dataset | pd.DataFrame


def from_client_data(
  train: ByClient,
  test: ByClient | Central,
  keras_model_fn: Callable[[], tf.keras.Model],
  *,
  name: str = 'custom',
  preprocess: Callable[[Any], Any] | None = None,
  objective: objectives.Objective | None = None,
  client_test: ByClient | None = None,
  eval_batch_size: int = 1000,
  x_key: str | None = None,
  label_key: str | None = None,
  client_column: Any = None,
  label_column: Any = None,
) -> task_lib.Task:
  """Creates a task from examples grouped by client.

  Examples by client are one of
    - a TFF `ClientData` whose elements are single examples, `(x, y)` or mappings. A client is read
      each time it is needed;
    - a mapping from client id to arrays `(x, y)`, or to a mapping of them. Ids become text; clients
      without examples are dropped;
    - a data frame with a column of clients and a column of labels. All other columns must be finite
      numbers; they form the example, float32 [features]. Text or categorical labels become classes,
      numbered in the sorted order of the labels in `train`.

  An example is one tensor. float64 becomes float32. Labels are classes, integers from 0 up
  (int32), or numbers if the objective says so (float32, [n, 1] if they are [n]).

  Args:
    train: Examples by client.
    test: Examples by client, or without clients: arrays `(x, y)` or a mapping of them, a
      `tf.data.Dataset` of single examples, or a data frame. All together are the central test set,
      in memory. If all its clients are in `train`, it is also used as `client_test`.
    keras_model_fn: Builds a new model in each call: Sequential or functional, with a known input
      shape, without batch normalisation, returning logits (no softmax at the end).
    name: The name of the task.
    preprocess: TensorFlow function from a batch `OrderedDict(x, y)` of arrays or tensors to the
      model's `OrderedDict(x, y)`; the identity by default.
    objective: Loss and metrics; `objectives.CLASSIFICATION` by default.
    client_test: Examples by client to test single clients on, instead of those of `test`; all
      clients must be in `train`.
    eval_batch_size: Test examples per batch.
    x_key: The key of the example if examples are mappings; optional if there are two entries.
    label_key: The key of the label if examples are mappings; optional if it is one of y, label,
      labels, target and targets.
    client_column: The name of a data frame's column of clients.
    label_column: The name of a data frame's column of labels.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If examples are not as above, or the model cannot be trained, or does not accept the
      first examples. Only the first examples of a `ClientData` are checked.
  """
  if isinstance(keras_model_fn, tf.keras.Model) or not callable(keras_model_fn):
    raise TypeError(
      '`keras_model_fn` must be a function that builds a Keras model, found '
      f'{type(keras_model_fn).__name__}.'
    )
  checks.check_at_least('eval_batch_size', eval_batch_size, 1)
  chosen = objective or objectives.CLASSIFICATION
  columns = None
  if isinstance(train, pd.DataFrame):
    columns = user_frames.columns_of(train, client_column, label_column)
  reader = _Reader(user_data.Format(x_key, label_key, chosen.classes), columns)
  clients = reader.by_client('train', train)
  central, tested = reader.central(test)
  if client_test is not None:
    tested = reader.by_client('client_test', client_test)
  elif tested is not None and not set(tested.client_ids) <= set(clients.client_ids):
    tested = None
  if tested is not None:
    tested = _with_ids_of(clients, tested)
  task = task_lib.Task(
    name,
    clients,
    central,
    preprocess or task_lib.as_stored,
    keras_model_fn,
    tested,
    chosen,
    eval_batch_size,
  )
  in_memory = isinstance(train, (Mapping, pd.DataFrame))
  _check(task, _extremes(clients) if in_memory else _first_examples(clients), objective is None)
  return task


class _Reader:
  """Reads examples of any kind; `columns` are those of the training data frame, if any."""

  def __init__(self, form: user_data.Format, columns: user_frames.Columns | None):
    self._form, self._columns = form, columns

  def by_client(self, argument: str, given: Any) -> arrays.ExampleClientData:
    found: arrays.ExampleClientData | None
    if isinstance(given, pd.DataFrame):
      found = user_frames.by_client(given, self._columns_for(argument), self._form)
    else:
      found = user_data.by_client(given, self._form)
    if found is None:
      raise TypeError(
        f'`{argument}` must be a `ClientData` of TFF, a mapping from client id to arrays '
        f'`(x, y)`, or a data frame, found {type(given).__name__}.'
      )
    if not found.client_ids:
      raise ValueError(f'`{argument}` must have a client with examples, found none.')
    return found

  def central(self, given: Any) -> tuple[arrays.Split, arrays.ExampleClientData | None]:
    """The central test set, and the same by client if it is grouped by client."""
    clients = None
    if isinstance(given, pd.DataFrame):
      columns = self._columns_for('test')
      if columns.client in given.columns:
        clients = self.by_client('test', given)
      else:
        return self._checked(user_frames.read(given, columns, self._form)), None
    elif isinstance(given, tf.data.Dataset):
      return self._checked(user_data.read_dataset('`test`', given, self._form)), None
    elif isinstance(given, (tff.simulation.datasets.ClientData, Mapping)):
      clients = user_data.by_client(given, self._form)
    elif not user_data.is_pair(given):
      raise TypeError(
        '`test` must be examples by client as `train`, arrays `(x, y)`, a tf.data.Dataset or a '
        f'data frame, found {type(given).__name__}.'
      )
    if clients is None:
      return self._checked(user_data.read_arrays('`test`', given, self._form)), None
    if not clients.client_ids:
      raise ValueError('`test` must have examples, found none.')
    return self._checked(user_data.pooled(clients)), clients

  def _columns_for(self, argument: str) -> user_frames.Columns:
    if self._columns is None:
      raise TypeError(f'`{argument}` must not be a data frame if `train` is not.')
    return self._columns

  def _checked(self, test: arrays.Split) -> arrays.Split:
    if not len(test.y):
      raise ValueError('`test` must have examples, found none.')
    return test


def _with_ids_of(
  train: arrays.ExampleClientData, client_test: arrays.ExampleClientData
) -> arrays.ExampleClientData:
  """The clients' test examples under the ids of `train`; some clients may have none."""
  others = sorted(set(client_test.client_ids) - set(train.client_ids))
  if others:
    raise ValueError(f'`client_test` must have clients of `train`, found {others[0]!r}.')
  if len(client_test.client_ids) == len(train.client_ids):
    return client_test
  return user_data.Completed(client_test, train.client_ids)


def _extremes(clients: arrays.ExampleClientData) -> arrays.Split:
  """For each client, the examples with the smallest and the largest label."""
  found = []
  for client_id in clients.client_ids:
    x, y = clients.examples(client_id)
    chosen = task_lib.extremes(y)
    found.append((x[chosen], y[chosen]))
  return arrays.Split(*(np.concatenate(part) for part in zip(*found, strict=True)))


def _first_examples(clients: arrays.ExampleClientData) -> arrays.Split:
  """The examples of the first client with examples."""
  found = (clients.examples(client_id) for client_id in clients.client_ids)
  first = next((split for split in found if len(split.y)), None)
  if first is None:
    raise ValueError('`train` must have a client with examples, found none.')
  return first


def _check(task: task_lib.Task, train: arrays.Split, by_default: bool) -> None:
  """Raises ValueError unless training and test examples have the same type and fit the model."""
  kinds = [[(array.dtype, array.ndim) for array in split] for split in (train, task.test)]
  if kinds[0] != kinds[1]:
    raise ValueError(
      f'{task.name}: training and test examples must have the same type, found '
      f'{_described(train)} and {_described(task.test)}.'
    )
  model = task.keras_model_fn()
  checks.check_type('keras_model_fn()', model, tf.keras.Model)
  for examples in (train, task.test):
    batch = task.check_model(model, examples)
  label_type = np.asarray(batch['y']).dtype
  if by_default and label_type.kind not in 'iu':
    raise ValueError(
      f'{task.name}: labels must be classes, integers from 0 up, found {label_type}; for numbers '
      'use an `objective` such as objectives.REGRESSION, for several labels an example '
      'objectives.MULTI_LABEL.'
    )
  try:
    output = model(batch['x'], training=False)
    task.objective.loss(y_true=batch['y'], y_pred=output)
  except Exception as e:
    raise ValueError(f'{task.name}: the model does not accept the first examples: {e}') from e


def _described(split: arrays.Split) -> str:
  x, y = ([array.dtype.name, *array.shape[1:]] for array in split)
  return f'x {x}, y {y}'
