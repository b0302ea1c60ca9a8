"""Client state on disk, in LMDB (https://www.symas.com/lmdb)."""

import collections
from collections.abc import Callable, Sequence
import hashlib
import json
import os
import pathlib
from typing import Any, BinaryIO
import uuid

import lmdb

from tff_lowrank import checks
from tff_lowrank import files
from tff_lowrank.client_state import lmdb_check
from tff_lowrank.client_state import lmdb_file
from tff_lowrank.client_state import packing
from tff_lowrank.client_state import store

_BATCH_BYTES = 1 << 24
_VERSION = lmdb_check.VERSION
_KEY_BYTES = lmdb_check.KEY_BYTES


def _key(client_id: str) -> bytes:
  """A key of fixed length for any string, even if it is not valid Unicode."""
  return hashlib.sha256(client_id.encode('utf-8', 'surrogatepass')).digest()


class _Cache:
  """The most recently used records, up to a number of bytes."""

  def __init__(self, cap_bytes: int):
    self._cap = cap_bytes
    self._bytes = 0
    self._records: collections.OrderedDict[bytes, bytes] = collections.OrderedDict()

  def get(self, key: bytes) -> bytes | None:
    if key in self._records:
      self._records.move_to_end(key)
    return self._records.get(key)

  def put(self, key: bytes, data: bytes) -> None:
    self._bytes += len(data) - len(self._records.pop(key, b''))
    self._records[key] = data
    while self._bytes > self._cap:
      self._bytes -= len(self._records.popitem(last=False)[1])

  def clear(self) -> None:
    self._records.clear()
    self._bytes = 0


class LmdbStore:
  """Client state on disk, if the state of all clients does not fit in RAM.

  Needs disk for all clients that were ever staged, and RAM up to a cap; in addition, the operating
  system caches pages of the file while RAM is free. Staged state is written with a version that
  readers do not see before `commit`. A client's earlier version is kept as long as a round of
  `keep` needs it, so that `restore` can go back to these rounds.

  Tables: `records`, client's key + version -> state, with a checksum over all three; `index`,
  version + key, to undo later rounds; `superseded`, version + key + previous version, to remove the
  latter; `meta`, the store's description of itself, with the digest of each round that can be
  restored. The version is the last committed round plus 1. A commit is one transaction, synced.

  The whole file is read and checked before LMDB opens it. Damage while it is open is detected when
  the data are read, by a wrong checksum, or when the file is opened the next time.
  """

  def __init__(
    self,
    initial: Any,
    path: str | os.PathLike[str],
    *,
    ram_cap_bytes: int = 1 << 26,
    float16: bool = False,
    identity: str | None = None,
  ):
    """Opens the store with all committed state; state that was only staged is dropped.

    Args:
      initial: The state of a new client.
      path: A folder, created if needed, which this store locks until it is closed.
      ram_cap_bytes: The size of the cache of records in RAM.
      float16: Whether to store floating-point numbers as float16; see `Packing`.
      identity: The identity of the store: given to an empty store, and checked for others. None:
        a random identity, and no check.

    Raises:
      BlockingIOError: If another store has the folder open.
      OSError: If the folder cannot be written.
      FileError: If the file in it is damaged, or is a store with another identity.
      ValueError: If it has client state of another structure.
    """
    checks.check_at_least('ram_cap_bytes', ram_cap_bytes, 0)
    self._initial = initial
    self._packing = packing.Packing(initial, float16)
    self._path = pathlib.Path(path)
    self._cache = _Cache(ram_cap_bytes)
    self._batch: list[tuple[bytes, bytes]] = []
    self._batch_bytes = 0
    self._file = lmdb_file.LmdbFile(self._path)
    try:
      self._open(identity)
    except BaseException:
      self.close()
      raise

  def _open(self, identity: str | None) -> None:
    found = self._file.contents
    self._damage = {int(round_num): text for round_num, text in found['damage'].items()}
    signature = self._packing.signature()
    self._about = found['about'] or dict(
      format=lmdb_check.FORMAT,
      identity=identity or uuid.uuid4().hex,
      signature=signature,
      round=None,
      digest=lmdb_check.to_hex(0),
      count=0,
      kept={},
    )
    if self._about['signature'] != signature:
      raise ValueError(
        f'{self._path}: expected client state of {signature}, found {self._about["signature"]}. '
        'Use another folder, or the settings it was made with.'
      )
    if identity not in (None, self._about['identity']):
      if self.committed_round is not None:
        raise files.FileError(
          self._path,
          'the client state of this run',
          'that of another, or of one whose run.json is lost. It was not changed; move the '
          'folder away, or use another --output_dir',
        )
      self._about['identity'] = identity
    self._file.write(self._open_tables)
    self._undo_after(self.committed_round)

  def _open_tables(self, txn: lmdb.Transaction) -> None:
    self._meta, self._records, self._index, self._superseded = (
      self._file.table(name, txn) for name in lmdb_check.TABLES
    )
    self._describe(txn, self._about)

  def _describe(self, txn: lmdb.Transaction, about: dict[str, Any]) -> None:
    body = json.dumps(about).encode()
    txn.put(lmdb_check.ABOUT, lmdb_check.checksum(lmdb_check.ABOUT, body) + body, db=self._meta)

  def _change(self, action: Callable[..., dict[str, Any]], *args: Any) -> None:
    """Calls `action` in a transaction, and adds its result to the description."""
    about: dict[str, Any] = {}

    def describe(txn: lmdb.Transaction) -> None:
      about.update(self._about | action(txn, *args))
      self._describe(txn, about)

    self._file.write(describe)
    self._about = about

  @property
  def committed_round(self) -> int | None:
    """The last committed round, or None."""
    return self._about['round']

  @property
  def _pending(self) -> bytes:
    """The version of staged state."""
    return _VERSION.pack(0 if self.committed_round is None else self.committed_round + 1)

  def __len__(self) -> int:
    """The number of clients with state."""
    return self._about['count']

  def _newest(self, txn: lmdb.Transaction, key: bytes, before: bytes) -> bytes | None:
    """The newest version of a client below `before`."""
    cursor = txn.cursor(db=self._records)
    found = cursor.prev() if cursor.set_range(key + before) else cursor.last()
    record = bytes(cursor.key()) if found else b''
    return record[_KEY_BYTES:] if record[:_KEY_BYTES] == key else None

  def read(self, client_ids: Sequence[str]) -> list[Any]:
    """The committed state of each client, in the given order; arrays may be read-only.

    Raises FileError if the state of one of them is damaged.
    """
    if self.committed_round is None:
      return [self._initial] * len(client_ids)
    with self._file.reading() as txn:
      return [self._read(txn, client_id) for client_id in client_ids]

  def _read(self, txn: lmdb.Transaction, client_id: str) -> Any:
    key = _key(client_id)
    version = self._newest(txn, key, self._pending)
    if version is None:
      return self._initial
    record = key + version
    data = self._cache.get(record)
    if data is None:
      data = txn.get(record, b'', db=self._records)
      self._cache.put(record, data)
    try:
      return self._packing.unpack(data, record)
    except ValueError as e:
      raise files.FileError(self._path, f'undamaged state of client {client_id!r}', str(e)) from e

  def stage(self, client_ids: Sequence[str], states: Sequence[Any]) -> None:
    """Holds back new state until `commit`; staging a client again replaces the first state."""
    store.check_stage(client_ids, states)
    for client_id, state in zip(client_ids, states, strict=True):
      record = _key(client_id) + self._pending
      data = self._packing.pack(state, record)
      self._cache.put(record, data)
      self._batch.append((record, data))
      self._batch_bytes += len(data)
      if self._batch_bytes >= _BATCH_BYTES:
        self._write_batch()

  def _write_batch(self) -> None:
    batch, self._batch, self._batch_bytes = self._batch, [], 0
    self._file.write(self._put, batch)

  def _put(self, txn: lmdb.Transaction, batch: Sequence[tuple[bytes, bytes]]) -> None:
    for record, data in batch:
      txn.put(record, data, db=self._records)
      checksum = data[: lmdb_check.CHECKSUM.size]
      txn.put(record[_KEY_BYTES:] + record[:_KEY_BYTES], checksum, db=self._index)

  def commit(self, round_num: int) -> None:
    """Makes staged state visible, as of round `round_num`, which must increase."""
    checks.check_at_least('round_num', round_num, 0)
    store.check_commit(self.committed_round, round_num)
    self._write_batch()
    self._change(self._commit, round_num)
    self._file.release()

  def _commit(self, txn: lmdb.Transaction, round_num: int) -> dict[str, Any]:
    version = self._pending
    kept = [int(kept_round) for kept_round in self._about['kept']]
    digest, count = int(self._about['digest'], 16), self._about['count']
    for entry, checksum in self._entries(txn, self._index, version):
      key = entry[_VERSION.size :]
      digest += lmdb_check.digest_of(key + version, checksum)
      before = self._newest(txn, key, version)
      if before is None:
        count += 1
        continue
      digest -= lmdb_check.digest_of(key + before, txn.get(before + key, b'', db=self._index))
      if self._needed(before, version, kept):
        txn.put(version + key + before, b'', db=self._superseded)
      else:
        self._remove(txn, key, before)
    return dict(round=round_num, digest=lmdb_check.to_hex(digest), count=count)

  @staticmethod
  def _needed(version: bytes, next_version: bytes, kept: Sequence[int]) -> bool:
    """Whether a round of `kept` uses `version` and not the next one."""
    low, high = _VERSION.unpack(version)[0], _VERSION.unpack(next_version)[0]
    return any(low <= round_num < high for round_num in kept)

  def _entries(self, txn: lmdb.Transaction, table: Any, start: bytes) -> list[tuple[bytes, bytes]]:
    cursor = txn.cursor(db=table)
    return list(cursor.iternext()) if cursor.set_range(start) else []

  def _remove(self, txn: lmdb.Transaction, key: bytes, version: bytes) -> None:
    txn.delete(key + version, db=self._records)
    txn.delete(version + key, db=self._index)

  def save(self, write: Callable[[bytes], Any]) -> None:
    """Makes the committed round survive a power cut; writes its number and the store's identity."""
    self._file.sync()
    write(json.dumps({name: self._about[name] for name in ('identity', 'digest')}).encode())

  def _restorable(self) -> dict[str, dict[str, Any]]:
    """The rounds that can be restored."""
    if self.committed_round is None:
      return {}
    now = dict(digest=self._about['digest'], count=self._about['count'])
    return self._about['kept'] | {str(self.committed_round): now}

  def _check_restorable(self, round_num: int) -> None:
    possible = self._restorable()
    if str(round_num) not in possible:
      raise ValueError(
        f'{self._path}: expected client state of round {round_num}, found rounds '
        f'{sorted(map(int, possible))}.'
      )
    if round_num in self._damage:
      raise files.FileError(
        self._path, f'client state of round {round_num}', self._damage[round_num]
      )

  def check(self, round_num: int, saved: BinaryIO) -> None:
    """Raises ValueError unless `restore` with the same arguments would succeed."""
    self._check_restorable(round_num)
    expected = json.load(saved)
    if expected['identity'] != self._about['identity']:
      raise files.FileError(self._path, 'the client state of this run', 'that of another')
    if expected['digest'] != self._restorable()[str(round_num)]['digest']:
      raise files.FileError(
        self._path, f'client state as in the checkpoint of round {round_num}', 'other state'
      )

  def restore(self, round_num: int | None, saved: BinaryIO | None = None) -> None:
    """Goes back to a round of `keep` or the last one; None empties the store.

    Raises ValueError if the store does not have the round, or it differs from the saved one.
    """
    if saved is not None:
      assert round_num is not None  # What was saved is of a round.
      self.check(round_num, saved)
    elif round_num is not None:
      self._check_restorable(round_num)
    self._batch, self._batch_bytes = [], 0
    self._undo_after(round_num)
    self._cache.clear()

  def _undo_after(self, round_num: int | None) -> None:
    self._change(self._undo, round_num)
    last = -1 if round_num is None else round_num
    self._damage = {r: text for r, text in self._damage.items() if r <= last}

  def _undo(self, txn: lmdb.Transaction, round_num: int | None) -> dict[str, Any]:
    first = _VERSION.pack(0 if round_num is None else round_num + 1)
    for entry, _ in self._entries(txn, self._index, first):
      self._remove(txn, entry[_VERSION.size :], entry[: _VERSION.size])
    for entry, _ in self._entries(txn, self._superseded, first):
      txn.delete(entry, db=self._superseded)
    if round_num is None:
      return dict(round=None, digest=lmdb_check.to_hex(0), count=0, kept={})
    kept = {r: of for r, of in self._about['kept'].items() if int(r) <= round_num}
    return dict(round=round_num, kept=kept, **self._restorable()[str(round_num)])

  def keep(self, round_nums: Sequence[int]) -> None:
    """From now on only the rounds `round_nums` and the last one must stay restorable."""
    self._change(self._keep, round_nums)

  def _keep(self, txn: lmdb.Transaction, round_nums: Sequence[int]) -> dict[str, Any]:
    for entry, _ in self._entries(txn, self._superseded, b'\0'):
      version, before = entry[: _VERSION.size], entry[-_VERSION.size :]
      if not self._needed(before, version, round_nums):
        self._remove(txn, entry[_VERSION.size : -_VERSION.size], before)
        txn.delete(entry, db=self._superseded)
    possible = self._restorable()
    return dict(kept={str(r): possible[str(r)] for r in round_nums if str(r) in possible})

  def close(self) -> None:
    """Closes the store. Staged state is lost."""
    self._file.close()
