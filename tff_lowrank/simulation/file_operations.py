"""The steps that make files durable, one function each, so that tests can make each step fail."""

from collections.abc import Iterator
import contextlib
import errno
import hashlib
import io
import os
import pathlib
import shutil
from typing import Any


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
  """Inside, an OSError in writing that names no file gets the name `path`."""
  try:
    yield
  except OSError as e:
    if e.errno is None or e.filename is not None:
      raise
    raise OSError(e.errno, e.strerror, str(path)) from e


def write(descriptor: int, data: bytes | memoryview) -> int:
  return os.write(descriptor, data)


def fsync(descriptor: int) -> None:
  os.fsync(descriptor)


def rename(source: pathlib.Path, target: pathlib.Path) -> None:
  os.rename(source, target)


def read_bytes(path: pathlib.Path) -> bytes:
  with open_to_read(path) as file:
    return file.read()


def open_to_read(path: pathlib.Path) -> io.BufferedReader:
  """Opens a regular file; raises OSError for a FIFO or a device, which may never end."""
  if path.exists() and not path.is_file():
    raise OSError(errno.EINVAL, 'Not a regular file', str(path))
  return path.open('rb')


def remove_folder(path: pathlib.Path) -> None:
  shutil.rmtree(path)


def write_all(descriptor: int, data: bytes) -> None:
  """Writes all of `data`, in several system calls if needed."""
  rest = memoryview(data)
  while rest:
    written = write(descriptor, rest)
    if written <= 0:
      raise OSError(f'The system wrote none of {len(rest)} bytes.')
    rest = rest[written:]


class NewFile:
  """A file that must not exist yet, written piece by piece; leaving the `with` block syncs it.

  digest: SHA-256 of the written data, in hexadecimal, and its length.
  """

  def __init__(self, path: pathlib.Path):
    self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    self._hash = hashlib.sha256()
    self._length = 0

  def write(self, data: bytes) -> None:
    write_all(self._descriptor, data)
    self._hash.update(data)
    self._length += len(data)

  @property
  def digest(self) -> dict[str, Any]:
    return dict(bytes=self._length, sha256=self._hash.hexdigest())

  def __enter__(self) -> 'NewFile':
    return self

  def __exit__(self, kind: type[BaseException] | None, *exception: Any) -> None:
    try:
      if kind is None:
        fsync(self._descriptor)
    finally:
      os.close(self._descriptor)


def digest(path: pathlib.Path) -> dict[str, Any]:
  """Length and SHA-256 of a file, as `NewFile.digest`."""
  with open_to_read(path) as file:
    found = hashlib.file_digest(file, 'sha256').hexdigest()
    return dict(bytes=file.tell(), sha256=found)


def write_new(path: pathlib.Path, data: bytes) -> None:
  """Writes a file that must not exist yet, and syncs it."""
  with NewFile(path) as file:
    file.write(data)


def sync_folder(path: pathlib.Path) -> None:
  """Makes creations, renames and removals in a folder durable."""
  descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
  try:
    fsync(descriptor)
  finally:
    os.close(descriptor)


def replace(path: pathlib.Path, data: bytes) -> None:
  """Replaces a file's content atomically."""
  temporary = path.with_name(f'.{path.name}.new')
  temporary.unlink(missing_ok=True)
  try:
    with naming(path):
      write_new(temporary, data)
      rename(temporary, path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  sync_folder(path.parent)
