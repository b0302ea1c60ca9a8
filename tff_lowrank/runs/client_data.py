"""Clients' data sets in a run, whose errors are about the user's data set."""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import files
from tff_lowrank import tasks
from tff_lowrank.models import keyed
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import batches as batches_lib


def from_task(
  spec: spec_lib.RunSpec, task: tasks.Task, model: tff.learning.models.FunctionalModel
) -> Callable[[str, int], tf.data.Dataset]:
  """A function from a client and the round's number to its batches, of the kind `model` takes.

  Where clients have learning rates of their own, `spec` knows them.

  It raises FileError for whatever is wrong with the client's examples. In a run nobody lets a
  client fail but `--dropout_rate`: examples that cannot be read would be missing in silence.
  """
  batches = batches_lib.ClientBatches(
    spec.client_epochs,
    spec.batch_size,
    spec.seed,
    spec.client_max_elements,
    dropout_keys=keyed.is_keyed(model),
    learning_rate=spec.client_rates.__getitem__ if spec.has_client_rates else None,
  )
  like = None

  def dataset(client_id: str, number: int) -> tf.data.Dataset:
    nonlocal like
    where = spec.data_dir or task.name
    try:
      found = batches.dataset(task.train, client_id, number, task.preprocess)
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
