"""The clients' data sets in a run; errors in the user's data name the data set."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import execution
from tff_lowrank import files
from tff_lowrank import tasks
from tff_lowrank.datasets import arrays
from tff_lowrank.models import keyed
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import batches as batches_lib
from tff_lowrank.simulation import evaluation


def _batches(
  spec: spec_lib.RunSpec, model: tff.learning.models.FunctionalModel
) -> batches_lib.ClientBatches:
  return batches_lib.ClientBatches(
    spec.client_epochs,
    spec.batch_size,
    spec.seed,
    spec.client_max_elements,
    dropout_keys=keyed.is_keyed(model),
    learning_rate=spec.client_rates.__getitem__ if spec.client_rates is not None else None,
  )


def from_task(
  spec: spec_lib.RunSpec, task: tasks.Task, model: tff.learning.models.FunctionalModel
) -> Callable[[str, int], tf.data.Dataset]:
  """A function from a client and the round number to its batches, of the type `model` takes.

  If clients have their own learning rates, they are in `spec`.

  The function raises FileError if the client's examples cannot be read. Otherwise they would be
  missing unnoticed: only `--dropout_rate` may make a client drop out.
  """
  return _opening(task.train, task.preprocess, _batches(spec, model), spec.data_dir or task.name)


def _opening(
  train: arrays.ExampleClientData,
  preprocess: Callable[[Any], Any],
  batches: batches_lib.ClientBatches,
  where: str,
) -> Callable[[str, int], tf.data.Dataset]:
  like = None

  def dataset(client_id: str, number: int) -> tf.data.Dataset:
    nonlocal like
    try:
      found = batches.dataset(train, client_id, number, preprocess)
    except files.FileError:
      raise
    except Exception as e:
      expected = f'examples of client {client_id!r} that can be read'
      raise files.FileError(where, expected, f'{type(e).__name__}: {e}') from e
    types = tf.nest.map_structure(lambda s: (s.dtype.name, s.shape[1:].rank), found.element_spec)
    like = like or types
    if types != like:
      raise files.FileError(
        where, f'examples of client {client_id!r} like those of others, {like}', str(types)
      )
    return found

  return dataset


def _open_train(
  arguments: Mapping[str, Any] | None,
  data: tuple[arrays.ExampleClientData, Callable[[Any], Any]] | None,
  batches: batches_lib.ClientBatches,
  where: str,
) -> Callable[[str, int], tf.data.Dataset]:
  """As `from_task`, for a task that is built here, or for its training data and `preprocess`."""
  if data is None:
    task = _built(arguments)
    data = (task.train, task.preprocess)
  return _opening(*data, batches, where)


def _open_test(
  arguments: Mapping[str, Any] | None,
  data: tuple[arrays.ExampleClientData, Callable[[Any], Any]] | None,
  batch_size: int,
) -> Callable[[str, int], tf.data.Dataset]:
  """The clients' test examples for an evaluation; arguments as of `_open_train`."""
  if data is None:
    task = _built(arguments)
    assert task.client_test is not None  # As it is evaluated on.
    data = (task.client_test, task.preprocess)
  dataset = evaluation.build_client_dataset(*data, batch_size)
  return lambda client_id, number: dataset(client_id)


# Keeps one task per process: training and test data come from the same one.
_last_built: list[tuple[Mapping[str, Any], tasks.Task]] = []


def _built(arguments: Mapping[str, Any] | None) -> tasks.Task:
  """`tasks.build(**arguments)`, cached."""
  assert arguments is not None  # As there is no data.
  if not _last_built or _last_built[0][0] != arguments:
    _last_built[:] = [(dict(arguments), tasks.build(**arguments))]
  return _last_built[0][1]


class Described:
  """Describes the data of a run's clients, so that another process can open them.

  A task with a name is built again in that process. If the task is an object, its examples are
  sent, once to each process.
  """

  def __init__(
    self,
    spec: spec_lib.RunSpec,
    task: tasks.Task,
    model: tff.learning.models.FunctionalModel,
    arguments: Mapping[str, Any] | None,
  ):
    """`arguments` are those of `tasks.build` for `task`; None if the task is an object."""
    self._batches, self._data = _batches(spec, model), task.train
    where = spec.data_dir or task.name
    sent = lambda data: None if arguments else (data, task.preprocess)  # noqa: E731
    self._train = execution.DataSource(
      _open_train, arguments, sent(task.train), self._batches, where
    )
    self._test = execution.DataSource(
      _open_test, arguments, sent(task.client_test), task.eval_batch_size
    )

  def train(self, client_id: str, number: int) -> execution.ClientDataset:
    """A client's training data in a round."""
    count = None
    # If it is known only by reading the data, it is left to the reader.
    if type(self._data).num_examples is not arrays.ExampleClientData.num_examples:
      count = self._batches.num_steps(self._data.num_examples(client_id))
    return self._train.describe(client_id, number, count)

  def test(self, client_id: str) -> execution.ClientDataset:
    """A client's test examples."""
    return self._test.describe(client_id, 0)
