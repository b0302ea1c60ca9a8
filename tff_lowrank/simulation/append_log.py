"""An append-only file that a checkpoint can rewind to an earlier position."""

import hashlib
import os
import pathlib
from typing import NamedTuple

from tff_lowrank import files
from tff_lowrank.simulation import file_operations


class Position(NamedTuple):
  """The length of a log, and the SHA-256 of its content, in hexadecimal."""

  length: int
  sha256: str


START = Position(0, hashlib.sha256().hexdigest())


class AppendLog:
  """A file to which records are appended, at a cost that does not depend on its length."""

  def __init__(self, path: pathlib.Path):
    """Opens the file, created if needed. Call `rewind` before `append`."""
    self.path = path
    if path.exists():
      files.check_regular(path, 'a file that a run writes')
    self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    self._length = 0
    self._hash = hashlib.sha256()

  def _hash_of_start(self, length: int) -> 'hashlib._Hash':
    found = hashlib.sha256()
    os.lseek(self._descriptor, 0, os.SEEK_SET)
    while length and (data := os.read(self._descriptor, min(length, 1 << 20))):
      found.update(data)
      length -= len(data)
    return found

  def holds(self, position: Position) -> bool:
    """Whether the file starts with the content that it had at `position`."""
    if os.fstat(self._descriptor).st_size < position.length:
      return False
    return self._hash_of_start(position.length).hexdigest() == position.sha256

  def rewind(self, position: Position = START) -> None:
    """Cuts off everything after `position`; raises ValueError unless `holds(position)`."""
    found = self._hash_of_start(position.length)
    if found.hexdigest() != position.sha256:
      raise ValueError(
        f'{self.path}: its first {position.length} bytes have changed since they were written.'
      )
    os.ftruncate(self._descriptor, position.length)
    self._length, self._hash = position.length, found

  @property
  def is_empty(self) -> bool:
    return self._length == 0

  def append(self, data: bytes) -> None:
    """Appends all of `data`, or raises OSError and leaves the file unchanged."""
    os.lseek(self._descriptor, self._length, os.SEEK_SET)
    try:
      with file_operations.naming(self.path):
        file_operations.write_all(self._descriptor, data)
    except BaseException:
      os.ftruncate(self._descriptor, self._length)
      raise
    self._length += len(data)
    self._hash.update(data)

  def sync(self) -> Position:
    """Makes the appended data durable; raises FileNotFoundError if the file was deleted."""
    if not os.fstat(self._descriptor).st_nlink:
      raise FileNotFoundError(f'{self.path} was deleted while it was being written.')
    with file_operations.naming(self.path):
      file_operations.fsync(self._descriptor)
    return Position(self._length, self._hash.hexdigest())

  def close(self) -> None:
    if self._descriptor >= 0:
      os.close(self._descriptor)
    self._descriptor = -1
