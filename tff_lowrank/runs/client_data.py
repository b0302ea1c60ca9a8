"""Clients' data sets in a run, whose errors are about the user's data set."""

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
  """A function from a client and the round's number to its batches, of the kind `model` takes.

  Where clients have learning rates of their own, `spec` knows them.

  It raises FileError for whatever is wrong with the client's examples. In a run nobody lets a
  client fail but `--dropout_rate`: examples that cannot be read would be missing in silence.
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
  """As `from_task`, of a task that is built here, or of its training data and `preprocess`."""
  if data is None:
    task = _built(arguments)
    data = (task.train, task.preprocess)
  return _opening(*data, batches, where)


def _open_test(
  arguments: Mapping[str, Any] | None,
  data: tuple[arrays.ExampleClientData, Callable[[Any], Any]] | None,
  batch_size: int,
) -> Callable[[str, int], tf.data.Dataset]:
  """Clients' test examples, as an evaluation takes them; arguments as of `_open_train`."""
  if data is None:
    task = _built(arguments)
    assert task.client_test is not None  # As it is evaluated on.
    data = (task.client_test, task.preprocess)
  dataset = evaluation.build_client_dataset(*data, batch_size)
  return lambda client_id, number: dataset(client_id)


# One task of a process at a time: its training and its test data are of the same.
_last_built: list[tuple[Mapping[str, Any], tasks.Task]] = []


def _built(arguments: Mapping[str, Any] | None) -> tasks.Task:
  """The task that `tasks.build` makes of the arguments; one that was asked for before is kept."""
  assert arguments is not None  # As there is no data.
  if not _last_built or _last_built[0][0] != arguments:
    _last_built[:] = [(dict(arguments), tasks.build(**arguments))]
  return _last_built[0][1]


class Described:
  """The data of a run's clients by description, for a context that opens them elsewhere.

  A task that has a name is built anew there. Of one that is an object, its examples are sent, once
  to each process.
  """

  def __init__(
    self,
    spec: spec_lib.RunSpec,
    task: tasks.Task,
    model: tff.learning.models.FunctionalModel,
    arguments: Mapping[str, Any] | None,
  ):
    """`arguments` are those of `tasks.build` for `task`; None for one that is an object."""
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
    """What a client trains on in a round."""
    count = None
    # Where it is not known but by reading, it is left to whoever reads them.
    if type(self._data).num_examples is not arrays.ExampleClientData.num_examples:
      count = self._batches.num_steps(self._data.num_examples(client_id))
    return self._train.describe(client_id, number, count)

  def test(self, client_id: str) -> execution.ClientDataset:
    """A client's test examples."""
    return self._test.describe(client_id, 0)
