"""Client memory on disk, in LMDB (https://www.symas.com/lmdb)."""

import collections
from collections.abc import Callable, Sequence
from concurrent import futures
import hashlib
import json
import mmap
import os
import pathlib
import struct
from typing import Any, TypeVar

import lmdb

from tff_lowrank import checks
from tff_lowrank.client_state import packing
from tff_lowrank.client_state import store

# Address space, of which the file takes what is used.
_MAP_BYTES = 1 << 40
_BATCH_BYTES = 1 << 24
_LOCK_BYTES = 1 << 13
_VERSION = struct.Struct('>Q')
_KEY_BYTES = 32

_T = TypeVar('_T')


def _key(client_id: str) -> bytes:
  """A key of fixed length for any string, also one that is no name of a file."""
  return hashlib.sha256(client_id.encode('utf-8', 'surrogatepass')).digest()


class _Cache:
  """The records used last, up to a number of bytes."""

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
  """Client memory on disk, for populations whose memory does not fit in RAM.

  Costs disk for the clients that were ever staged, and RAM up to a cap; the operating system
  keeps pages of the file besides, as long as nothing else wants the RAM. What is staged is
  written in the background, under a version that readers do not see before `commit`. A client's
  earlier version stays as long as a round of `keep` needs it, so `restore` can go back to these.

  Databases: `records`, client's key + version -> memory; `index`, version + key, to undo what
  came after a round; `superseded`, version + key + version before it, to remove the latter.
  The version is the round committed before, plus 1. All of a commit is one transaction, synced.
  """

  def __init__(
    self,
    initial: Any,
    path: str | os.PathLike[str],
    *,
    ram_cap_bytes: int = 1 << 30,
    float16: bool = False,
  ):
    """Opens the store, with all that was committed to it; what was only staged is dropped.

    Args:
      initial: The memory of a client that was never seen.
      path: A folder, made if needed, that one store at a time may have open.
      ram_cap_bytes: For records kept in RAM; half for reading, half for writing behind.
      float16: Whether to keep floating-point numbers as float16; see `Packing`.

    Raises:
      OSError: If the folder cannot be written.
      ValueError: If it holds memory of another structure.
    """
    checks.check_at_least('ram_cap_bytes', ram_cap_bytes, 0)
    self._initial = initial
    self._packing = packing.Packing(initial, float16)
    self._path = pathlib.Path(path)
    self._cache = _Cache(ram_cap_bytes // 2)
    self._behind_cap = ram_cap_bytes // 2
    self._path.mkdir(parents=True, exist_ok=True)
    self._prepare_files()
    # Without `metasync` a power cut may undo the last rounds, but not damage the file.
    self._env = self._checked(
      lambda: lmdb.open(
        str(self._path), map_size=_MAP_BYTES, max_dbs=4, metasync=False, readahead=False
      )
    )
    self._writer = futures.ThreadPoolExecutor(1, 'client_memory')
    self._batch: list[tuple[bytes, bytes]] = []
    self._batch_bytes = 0
    self._behind: collections.deque[tuple[int, futures.Future]] = collections.deque()
    try:
      self._on_writer(self._open)
    except BaseException:
      self.close()
      raise

  def _prepare_files(self) -> None:
    """Sees to what LMDB does not bear on a full disk.

    It leaves the table of readers sparse, which is memory: without room for it the process would
    end with SIGBUS. And it takes its file for damaged if there was no room for its first two
    pages, which hold nothing yet.
    """
    data = self._path / 'data.mdb'
    if data.exists() and data.stat().st_size < 2 * mmap.PAGESIZE:
      data.unlink()
    descriptor = os.open(self._path / 'lock.mdb', os.O_RDWR | os.O_CREAT, 0o644)
    try:
      os.posix_fallocate(descriptor, 0, _LOCK_BYTES)
    except OSError as e:
      raise OSError(f'{self._path}: client memory could not be opened: {e.strerror}.') from e
    finally:
      os.close(descriptor)

  def _checked(self, action: Callable[[], _T]) -> _T:
    try:
      return action()
    except lmdb.Error as e:
      raise OSError(
        f'{self._path}: client memory could not be read or written: {e}. See that the disk has '
        'room, then give the same command again.'
      ) from e

  def _on_writer(self, action: Callable[..., _T], *args: Any) -> _T:
    return self._checked(self._writer.submit(action, *args).result)

  def _check_length(self) -> None:
    """Raises OSError if pages are missing, which LMDB does not look at before it uses them."""
    expected = (self._env.info()['last_pgno'] + 1) * self._env.stat()['psize']
    found = (self._path / 'data.mdb').stat().st_size
    if found < expected:
      raise OSError(
        f'{self._path}: expected client memory of {expected} bytes, found {found}. Put data.mdb '
        'back as it was, or give another --output_dir.'
      )

  def _open(self) -> None:
    self._check_length()
    names = (b'meta', b'records', b'index', b'superseded')
    self._meta, self._records, self._index, self._superseded = map(self._env.open_db, names)
    signature = self._packing.signature()
    with self._env.begin(write=True) as txn:
      found = txn.get(b'signature', db=self._meta)
      if found is not None and found.decode() != signature:
        raise ValueError(
          f'{self._path}: expected client memory of {signature}, found {found.decode()}. Use '
          'another folder, or the settings it was made with.'
        )
      txn.put(b'signature', signature.encode(), db=self._meta)
    self._round = self._committed()
    self._undo_after(self._round)

  def _committed(self) -> int | None:
    with self._env.begin() as txn:
      found = txn.get(b'round', db=self._meta)
    return None if found is None else _VERSION.unpack(found)[0]

  @property
  def committed_round(self) -> int | None:
    """The last round committed, or None."""
    return self._round

  @property
  def _pending(self) -> bytes:
    """The version of what is staged."""
    return _VERSION.pack(0 if self._round is None else self._round + 1)

  def __len__(self) -> int:
    """The number of clients with memory."""
    with self._env.begin() as txn:
      return json.loads(txn.get(b'count', b'0', db=self._meta))

  def _newest(self, txn: lmdb.Transaction, key: bytes, before: bytes) -> bytes | None:
    """The newest version of a client below `before`."""
    cursor = txn.cursor(db=self._records)
    found = cursor.prev() if cursor.set_range(key + before) else cursor.last()
    record = bytes(cursor.key()) if found else b''
    return record[_KEY_BYTES:] if record[:_KEY_BYTES] == key else None

  def read(self, client_ids: Sequence[str]) -> list[Any]:
    """The committed memory of each client, in the order asked; arrays may be read-only."""
    return self._checked(lambda: self._read(client_ids))

  def _read(self, client_ids: Sequence[str]) -> list[Any]:
    states = []
    with self._env.begin(buffers=True) as txn:
      found = txn.get(b'round', db=self._meta)
      if found is None:
        return [self._initial] * len(client_ids)
      visible = _VERSION.pack(_VERSION.unpack(found)[0] + 1)
      for client_id in client_ids:
        key = _key(client_id)
        version = self._newest(txn, key, visible)
        if version is None:
          states.append(self._initial)
          continue
        data = self._cache.get(key + version)
        if data is None:
          data = bytes(txn.get(key + version, db=self._records))
          self._cache.put(key + version, data)
        try:
          states.append(self._packing.unpack(data))
        except ValueError as e:
          raise OSError(f'{self._path}: damaged memory of client {client_id!r}: {e}.') from e
    return states

  def stage(self, client_ids: Sequence[str], states: Sequence[Any]) -> None:
    """Keeps new memory aside until `commit`; a second staging of a client replaces the first."""
    store.check_stage(client_ids, states)
    version = self._pending
    for client_id, state in zip(client_ids, states, strict=True):
      record, data = _key(client_id) + version, self._packing.pack(state)
      self._cache.put(record, data)
      self._batch.append((record, data))
      self._batch_bytes += len(data)
      if self._batch_bytes >= min(_BATCH_BYTES, self._behind_cap):
        self._write_behind()

  def _write_behind(self) -> None:
    """Hands the batch to the writer, once there is room for it under the cap."""
    while self._behind and sum(n for n, _ in self._behind) + self._batch_bytes > self._behind_cap:
      self._checked(self._behind.popleft()[1].result)
    batch, size = self._batch, self._batch_bytes
    self._batch, self._batch_bytes = [], 0
    self._behind.append((size, self._writer.submit(self._write, batch)))

  def _write(self, batch: list[tuple[bytes, bytes]]) -> None:
    with self._env.begin(write=True) as txn:
      for record, data in batch:
        txn.put(record, data, db=self._records)
        txn.put(record[_KEY_BYTES:] + record[:_KEY_BYTES], b'', db=self._index)

  def commit(self, round_num: int) -> None:
    """Makes all that is staged visible, as of `round_num`, which must grow."""
    checks.check_at_least('round_num', round_num, 0)
    store.check_commit(self._round, round_num)
    if self._batch:
      self._write_behind()
    while self._behind:
      self._checked(self._behind.popleft()[1].result)
    self._on_writer(self._commit, self._pending, round_num)
    self._round = round_num

  def _commit(self, version: bytes, round_num: int) -> None:
    with self._env.begin(write=True) as txn:
      kept = self._kept(txn)
      new = 0
      for record in self._keys_from(txn, self._index, version):
        key = record[_VERSION.size :]
        before = self._newest(txn, key, version)
        if before is None:
          new += 1
        elif self._needed(before, version, kept):
          txn.put(version + key + before, b'', db=self._superseded)
        else:
          self._remove(txn, key, before)
      self._count(txn, new)
      txn.put(b'round', _VERSION.pack(round_num), db=self._meta)

  def _kept(self, txn: lmdb.Transaction) -> list[int]:
    return json.loads(txn.get(b'kept', b'[]', db=self._meta))

  def _count(self, txn: lmdb.Transaction, more: int) -> None:
    count = json.loads(txn.get(b'count', b'0', db=self._meta)) + more
    txn.put(b'count', json.dumps(count).encode(), db=self._meta)

  @staticmethod
  def _needed(version: bytes, next_version: bytes, kept: list[int]) -> bool:
    """Whether a round of `kept` sees `version` rather than the next."""
    low, high = _VERSION.unpack(version)[0], _VERSION.unpack(next_version)[0]
    return any(low <= round_num < high for round_num in kept)

  def _keys_from(self, txn: lmdb.Transaction, database: Any, start: bytes) -> list[bytes]:
    cursor = txn.cursor(db=database)
    return list(cursor.iternext(values=False)) if cursor.set_range(start) else []

  def _remove(self, txn: lmdb.Transaction, key: bytes, version: bytes) -> None:
    txn.delete(key + version, db=self._records)
    txn.delete(version + key, db=self._index)

  def save(self) -> None:
    """Makes the committed round survive a power cut; a checkpoint need hold nothing."""
    self._checked(lambda: self._env.sync(True))

  def restore(self, round_num: int | None, contents: store.Contents | None = None) -> None:
    """Goes back to a round of `keep` or the last one; None empties the store."""
    if contents is not None:
      raise ValueError(f'{self._path}: expected a checkpoint without client memory, found some.')
    with self._env.begin() as txn:
      possible = {None, self._round, *self._kept(txn)}
    if round_num not in possible or (round_num or 0) > (self._round or 0):
      raise ValueError(
        f'{self._path}: expected client memory of round {round_num}, found rounds '
        f'{sorted(possible - {None})}.'
      )
    self._batch, self._batch_bytes = [], 0
    while self._behind:
      self._behind.popleft()[1].exception()
    self._on_writer(self._undo_after, self._round)  # What is staged, which is not counted.
    self._on_writer(self._undo_after, round_num)
    self._cache.clear()
    self._round = round_num

  def _undo_after(self, round_num: int | None) -> None:
    first = _VERSION.pack(0 if round_num is None else round_num + 1)
    with self._env.begin(write=True) as txn:
      staged = _VERSION.pack(0 if self._round is None else self._round + 1)
      gone = 0
      for entry in self._keys_from(txn, self._index, first):
        version, key = entry[: _VERSION.size], entry[_VERSION.size :]
        self._remove(txn, key, version)
        gone += version < staged and self._newest(txn, key, b'\xff' * _VERSION.size) is None
      for entry in self._keys_from(txn, self._superseded, first):
        txn.delete(entry, db=self._superseded)
      self._count(txn, -gone)
      kept = [r for r in self._kept(txn) if round_num is not None and r <= round_num]
      txn.put(b'kept', json.dumps(kept).encode(), db=self._meta)
      if round_num is None:
        txn.delete(b'round', db=self._meta)
      else:
        txn.put(b'round', _VERSION.pack(round_num), db=self._meta)

  def keep(self, round_nums: Sequence[int]) -> None:
    """From now on only the rounds `round_nums` and the last one need to be restorable."""
    self._on_writer(self._keep, sorted(round_nums))

  def _keep(self, kept: list[int]) -> None:
    with self._env.begin(write=True) as txn:
      txn.put(b'kept', json.dumps(kept).encode(), db=self._meta)
      for entry in self._keys_from(txn, self._superseded, b'\0'):
        version, before = entry[: _VERSION.size], entry[-_VERSION.size :]
        if not self._needed(before, version, kept):
          self._remove(txn, entry[_VERSION.size : -_VERSION.size], before)
          txn.delete(entry, db=self._superseded)

  def close(self) -> None:
    """Ends the use of the store. What is staged is lost."""
    self._writer.shutdown()
    self._env.close()
