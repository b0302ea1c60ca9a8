"""Stores of client memory, committed round by round."""

from collections.abc import Sequence
from typing import Any


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
    if len(client_ids) != len(states):
      raise ValueError(f'Expected {len(client_ids)} states, found {len(states)}.')
    self._staged.update(zip(client_ids, states, strict=True))

  def commit(self, round_num: int) -> None:
    """Makes all that is staged visible, as of `round_num`, which must grow."""
    if self._round is not None and round_num <= self._round:
      raise ValueError(f'Expected a round after {self._round}, found {round_num}.')
    self._committed.update(self._staged)
    self._staged = {}
    self._round = round_num
