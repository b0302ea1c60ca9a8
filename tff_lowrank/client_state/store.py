"""Stores of client memory, committed round by round."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from tff_lowrank.client_state import packing


class Contents(NamedTuple):
  """All client memory of a store that keeps none on disk itself.

  client_ids: whose memory it is.
  leaves: an array for each tensor of a memory, [num_clients, ...].
  """

  client_ids: list[str]
  leaves: list[np.ndarray]


class Store(Protocol):
  """What the rounds and the checkpoints need of a store."""

  @property
  def committed_round(self) -> int | None:
    """The last round committed, or None."""

  def read(self, client_ids: Sequence[str]) -> list[Any]:
    """The committed memory of each client, in the order asked."""

  def stage(self, client_ids: Sequence[str], states: Sequence[Any]) -> None:
    """Keeps new memory aside until `commit`; a second staging of a client replaces the first."""

  def commit(self, round_num: int) -> None:
    """Makes all that is staged visible, as of `round_num`, which must grow."""

  def save(self) -> Contents | None:
    """What a checkpoint of the committed round must hold; None if the store is on disk itself."""

  def restore(self, round_num: int | None, contents: Contents | None) -> None:
    """Goes back to a committed round, saved as `contents`; None is the empty store."""

  def keep(self, round_nums: Sequence[int]) -> None:
    """From now on only the rounds `round_nums` and the last one need to be restorable."""

  def close(self) -> None:
    """Ends the use of the store. What is staged is lost."""


def check_stage(client_ids: Sequence[str], states: Sequence[Any]) -> None:
  if len(client_ids) != len(states):
    raise ValueError(f'Expected {len(client_ids)} states, found {len(states)}.')


def check_commit(last: int | None, round_num: int) -> None:
  if last is not None and round_num <= last:
    raise ValueError(f'Expected a round after {last}, found {round_num}.')


class MemoryStore:
  """Client memory in a dictionary.

  What a round's clients give back is staged, and becomes visible with `commit`, so that a
  round that fails half-way leaves no trace.
  """

  def __init__(self, initial: Any):
    """Creates an empty store; `initial` is the memory of a client that was never seen."""
    self._initial = initial
    self._committed: dict[str, Any] = {}
    self._staged: dict[str, Any] = {}
    self._round: int | None = None

  @property
  def committed_round(self) -> int | None:
    """The last round committed, or None."""
    return self._round

  def __len__(self) -> int:
    """The number of clients with memory."""
    return len(self._committed)

  def read(self, client_ids: Sequence[str]) -> list[Any]:
    """The committed memory of each client, in the order asked."""
    return [self._committed.get(client_id, self._initial) for client_id in client_ids]

  def stage(self, client_ids: Sequence[str], states: Sequence[Any]) -> None:
    """Keeps new memory aside until `commit`; a second staging of a client replaces the first."""
    check_stage(client_ids, states)
    self._staged.update(zip(client_ids, states, strict=True))

  def commit(self, round_num: int) -> None:
    """Makes all that is staged visible, as of `round_num`, which must grow."""
    check_commit(self._round, round_num)
    self._committed.update(self._staged)
    self._staged = {}
    self._round = round_num

  def save(self) -> Contents:
    """All committed memory, for a checkpoint."""
    columns = zip(*(packing.leaves_of(state) for state in self._committed.values()), strict=True)
    return Contents(list(self._committed), [np.stack(column) for column in columns])

  def restore(self, round_num: int | None, contents: Contents | None) -> None:
    """Goes back to the round that `contents` was saved in; None is the empty store."""
    self._staged, self._committed, self._round = {}, {}, round_num
    for i, client_id in enumerate(contents.client_ids if contents else ()):
      # Copied, lest one client's memory holds on to all others' of that round.
      leaves = [column[i].copy() for column in contents.leaves]
      self._committed[client_id] = tf.nest.pack_sequence_as(self._initial, leaves)

  def keep(self, round_nums: Sequence[int]) -> None:
    """Does nothing: checkpoints hold the memory themselves."""

  def close(self) -> None:
    """Does nothing."""
