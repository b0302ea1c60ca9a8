"""Descriptions of clients' data sets, which are opened where the client runs.

A `ClientDataset` can be an argument of a computation in place of a `tf.data.Dataset`. The local
context opens it in this process. The context of many machines opens it on the machine on which the
client runs, so examples do not pass through the process that runs the program.
"""

from collections.abc import Callable
import dataclasses
import threading
from typing import Any
import uuid

import tensorflow as tf

# A function of a client's id and the round's number that returns its batches.
Open = Callable[[str, int], tf.data.Dataset]


class NoExamplesError(ValueError):
  """A client's data set is empty, and its description does not allow that."""


class DataSource:
  """Opens clients' data sets. It is constructed once in each process.

  identity: the same for all copies of a source.
  """

  def __init__(self, constructor: Callable[..., Open], *arguments: Any, **named: Any):
    """Creates a source; nothing is opened yet.

    Args:
      constructor: Is called with the other arguments, and returns a function from a client's id and
        the round's number to a `tf.data.Dataset`. The data sets must be equal in all processes:
        all randomness must depend on the arguments only.
      *arguments: For the constructor. They are sent to other machines with `pickle`.
      **named: Keyword arguments for the constructor.
    """
    self.identity = uuid.uuid4().hex
    self._constructor, self._arguments, self._named = constructor, arguments, named
    self._lock = threading.Lock()
    self._open: Open | None = None

  def __getstate__(self) -> dict[str, Any]:
    return {n: v for n, v in self.__dict__.items() if n not in ('_lock', '_open')}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _lock=threading.Lock(), _open=None)

  def open(self, client_id: str, round_num: int) -> tf.data.Dataset:
    """The data set of a client in a round. Errors of the constructor and its function pass."""
    with self._lock:
      if self._open is None:
        self._open = self._constructor(*self._arguments, **self._named)
    return self._open(client_id, round_num)

  def describe(
    self, client_id: str, round_num: int, num_steps: int | None = None
  ) -> 'ClientDataset':
    """The description of a client's data set in a round."""
    return ClientDataset(self, client_id, round_num, num_steps)


@dataclasses.dataclass(frozen=True)
class ClientDataset:
  """The description of a client's data set in a round.

  source: opens it.
  num_steps: the number of batches, if known, with which the context plans the round; else None.
  is_empty_refused: whether `open` raises `NoExamplesError` for a data set known to be empty.
  """

  source: DataSource
  client_id: str
  round_num: int
  num_steps: int | None = None
  is_empty_refused: bool = False

  def open(self) -> tf.data.Dataset:
    """The data set. Errors of the source pass."""
    dataset = self.source.open(self.client_id, self.round_num)
    if not isinstance(dataset, tf.data.Dataset):
      raise TypeError(
        f'The source of the data of client {self.client_id!r} must give a `tf.data.Dataset`, found '
        f'{type(dataset).__name__}.'
      )
    if self.is_empty_refused and int(dataset.cardinality()) == 0:
      raise NoExamplesError(f'Client {self.client_id!r} has no examples.')
    return dataset
