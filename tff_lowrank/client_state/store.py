"""Stores of client state, committed round by round."""

from collections.abc import Callable, Iterator, Sequence
import struct
from typing import Any, BinaryIO, Protocol

from tff_lowrank.client_state import packing

_LENGTH = struct.Struct('<Q')


class Store(Protocol):
  """The interface of a store, for rounds and checkpoints."""

  @property
  def committed_round(self) -> int | None:
    """The last committed round, or None."""

  def read(self, client_ids: Sequence[str]) -> list[Any]:
    """The committed state of each client, in the given order."""

  def stage(self, client_ids: Sequence[str], states: Sequence[Any]) -> None:
    """Holds back new state until `commit`; staging a client again replaces the first state."""

  def commit(self, round_num: int) -> None:
    """Makes staged state visible, as of round `round_num`, which must increase."""

  def save(self, write: Callable[[bytes], Any]) -> None:
    """Writes the data for a checkpoint of the committed round, piece by piece."""

  def check(self, round_num: int, saved: BinaryIO) -> None:
    """Raises ValueError unless `restore` with the same arguments would succeed."""

  def restore(self, round_num: int | None, saved: BinaryIO | None = None) -> None:
    """Goes back to a committed round, which was saved as `saved`; None empties the store.

    Raises ValueError, with the reason, if this is not possible.
    """

  def keep(self, round_nums: Sequence[int]) -> None:
    """From now on only the rounds `round_nums` and the last one must stay restorable."""

  def close(self) -> None:
    """Closes the store. Staged state is lost."""


def check_stage(client_ids: Sequence[str], states: Sequence[Any]) -> None:
  if len(client_ids) != len(states):
    raise ValueError(f'Expected {len(client_ids)} states, found {len(states)}.')


def check_commit(last: int | None, round_num: int) -> None:
  if last is not None and round_num <= last:
    raise ValueError(f'Expected a round after {last}, found {round_num}.')


def _write_piece(write: Callable[[bytes], Any], piece: bytes) -> None:
  write(_LENGTH.pack(len(piece)) + piece)


def _read_piece(saved: BinaryIO) -> bytes | None:
  """Reads the result of `_write_piece`; None at the end."""
  header = saved.read(_LENGTH.size)
  if not header:
    return None
  length = int.from_bytes(header, 'little')
  piece = saved.read(length)
  if len(header) < _LENGTH.size or len(piece) < length:
    raise ValueError('Client state was cut off.')
  return piece


class MemoryStore:
  """Client state in a dictionary.

  The new state of a round's clients is staged, and becomes visible with `commit`, so a round that
  fails half-way changes nothing.
  """

  def __init__(self, initial: Any):
    """Creates an empty store; `initial` is the state of a new client."""
    self._initial = initial
    self._committed: dict[str, Any] = {}
    self._staged: dict[str, Any] = {}
    self._round: int | None = None

  @property
  def committed_round(self) -> int | None:
    """The last committed round, or None."""
    return self._round

  def __len__(self) -> int:
    """The number of clients with state."""
    return len(self._committed)

  def read(self, client_ids: Sequence[str]) -> list[Any]:
    """The committed state of each client, in the given order."""
    return [self._committed.get(client_id, self._initial) for client_id in client_ids]

  def stage(self, client_ids: Sequence[str], states: Sequence[Any]) -> None:
    """Holds back new state until `commit`; staging a client again replaces the first state."""
    check_stage(client_ids, states)
    self._staged.update(zip(client_ids, states, strict=True))

  def commit(self, round_num: int) -> None:
    """Makes staged state visible, as of round `round_num`, which must increase."""
    check_commit(self._round, round_num)
    self._committed.update(self._staged)
    self._staged = {}
    self._round = round_num

  def save(self, write: Callable[[bytes], Any]) -> None:
    """Writes all committed state, client by client: only one is copied at a time."""
    packer = packing.Packing(self._initial)
    _write_piece(write, packer.signature().encode())
    for client_id, state in self._committed.items():
      label = client_id.encode('utf-8', 'surrogatepass')
      _write_piece(write, label)
      _write_piece(write, packer.pack(state, label))

  def _saved(self, saved: BinaryIO) -> Iterator[tuple[str, Any]]:
    packer = packing.Packing(self._initial)
    found, expected = _read_piece(saved), packer.signature().encode()
    if found != expected:
      raise ValueError(f'Expected client state of {expected!r}, found {found!r}.')
    while (label := _read_piece(saved)) is not None:
      yield label.decode('utf-8', 'surrogatepass'), packer.unpack(_read_piece(saved) or b'', label)

  def check(self, round_num: int, saved: BinaryIO) -> None:
    """Raises ValueError unless `restore` with the same arguments would succeed."""
    del round_num  # Every round can be restored.
    for _ in self._saved(saved):
      pass

  def restore(self, round_num: int | None, saved: BinaryIO | None = None) -> None:
    """Goes back to the round that was saved as `saved`; None empties the store."""
    committed = dict(self._saved(saved)) if saved is not None else {}
    self._staged, self._committed, self._round = {}, committed, round_num

  def keep(self, round_nums: Sequence[int]) -> None:
    """Does nothing: checkpoints contain the client state."""

  def close(self) -> None:
    """Does nothing."""
