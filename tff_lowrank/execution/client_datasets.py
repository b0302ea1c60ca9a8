"""Clients' data sets by description: opened where they are used, not where the round is planned.

A `ClientDataset` stands in the place of a `tf.data.Dataset` in what a computation is given. The
local context opens it in this process, a context of many machines on the machine that the client
runs on, so that no example passes through the process that runs the program.
"""

from collections.abc import Callable
import dataclasses
import threading
from typing import Any
import uuid

import tensorflow as tf

# A client's id and the round's number -> its batches.
Open = Callable[[str, int], tf.data.Dataset]


class NoExamplesError(ValueError):
  """A client's data set is empty, where that is not wanted."""


class DataSource:
  """Opens clients' data sets; made of a constructor and its arguments, once in each process.

  identity: the same for all copies of a source.
  """

  def __init__(self, constructor: Callable[..., Open], *arguments: Any, **named: Any):
    """Creates a source; nothing is opened yet.

    Args:
      constructor: Given the other arguments, returns a function from a client's id and the
        round's number to a `tf.data.Dataset`. It must give equal data sets in all processes:
        whatever is random in them must follow from its arguments.
      *arguments: For the constructor; they travel to other machines with `pickle`.
      **named: As `arguments`, by name.
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
    """The data set of a client in a round; raises whatever opening it raises."""
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
  """What a client trains on in a round, by description.

  source: what opens it.
  num_steps: how many batches it has, for whoever plans the round; None if that is not known.
  is_empty_refused: whether `open` raises `NoExamplesError` for a data set known to be empty.
  """

  source: DataSource
  client_id: str
  round_num: int
  num_steps: int | None = None
  is_empty_refused: bool = False

  def open(self) -> tf.data.Dataset:
    """The data set; raises whatever opening it raises."""
    dataset = self.source.open(self.client_id, self.round_num)
    if not isinstance(dataset, tf.data.Dataset):
      raise TypeError(
        f'The source of the data of client {self.client_id!r} must give a `tf.data.Dataset`, found '
        f'{type(dataset).__name__}.'
      )
    if self.is_empty_refused and int(dataset.cardinality()) == 0:
      raise NoExamplesError(f'Client {self.client_id!r} has no examples.')
    return dataset
