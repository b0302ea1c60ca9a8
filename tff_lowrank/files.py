"""Reading users' files: any error in the content becomes a `FileError`.

Every reader of a user's file opens it inside `reading`, so that any error of the parser becomes a
`FileError`, which says which file it is, what was expected, and what was found.
"""

import bz2
from collections.abc import Callable, Iterator
import contextlib
import errno
import gzip
import io
import lzma
import os
import pathlib
import stat
import tarfile
from typing import Any

_MAX_FOUND = 300  # Characters of `found`: parsers may quote their whole input.
_OPENERS: dict[str, Callable[..., Any]] = {'.gz': gzip.open, '.bz2': bz2.open, '.lzma': lzma.open}


class FileError(ValueError):
  """A file that cannot be used.

  path: the file.
  expected: the expected content, as part of a sentence: `'a NumPy archive'`.
  found: the actual content, or the error in reading it.
  """

  def __init__(self, path: str | os.PathLike[str], expected: str, found: str):
    found = ' '.join(found.split()).rstrip('.: ')
    found = found if len(found) <= _MAX_FOUND else f'{found[:_MAX_FOUND]}...'
    self.path, self.expected, self.found = pathlib.Path(path), expected, found
    name = str(path) if str(path).isprintable() else repr(str(path))
    super().__init__(f'{name}: expected {expected}, found {found}.')


def check_regular(path: str | os.PathLike[str], expected: str) -> None:
  """Raises FileError unless `path` is a regular file: no folder, FIFO, socket or device.

  Raises FileNotFoundError, or another OSError, if there is nothing at `path` that can be read.
  """
  mode = os.stat(path).st_mode
  if not stat.S_ISREG(mode):
    kinds = {
      stat.S_IFDIR: 'a folder',
      stat.S_IFIFO: 'a FIFO',
      stat.S_IFSOCK: 'a socket',
      stat.S_IFCHR: 'a device',
      stat.S_IFBLK: 'a device',
    }
    raise FileError(path, expected, kinds.get(stat.S_IFMT(mode), 'not a regular file'))


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
  """Inside, any error about the content of `path` becomes a `FileError`.

  An OSError of the operating system (no such file, no permission, a full disk) is passed on: it
  names the file and the reason. An OSError caused by the content is not: it has no errno, or that
  of an invalid position. An ImportError, which names a module, is passed on, too.
  """
  check_regular(path, expected)
  try:
    yield
  except (FileError, ImportError):
    raise
  except OSError as e:
    if e.errno not in (None, errno.EINVAL, errno.EOVERFLOW):
      raise
    raise FileError(path, expected, f'{type(e).__name__}: {e}') from e
  except Exception as e:
    raise FileError(path, expected, f'{type(e).__name__}: {e}') from e


class _Bounded(io.RawIOBase):
  """Reads a stream, and raises `too_long` after more than `max_bytes`."""

  def __init__(self, stream: Any, max_bytes: int, too_long: FileError):
    self._stream, self._left, self._too_long = stream, max_bytes, too_long

  def readable(self) -> bool:
    return True

  def readinto(self, buffer: Any) -> int:
    count = self._stream.readinto(buffer)
    self._left -= count
    if self._left < 0:
      raise self._too_long
    return count


@contextlib.contextmanager
def opening(
  path: str | os.PathLike[str], expected: str, max_bytes: int
) -> Iterator[io.BufferedReader]:
  """A file as a stream of bytes, inside `reading`; `.gz`, `.bz2` and `.lzma` are decompressed.

  Raises FileError if the stream is longer than `max_bytes`: a small file can decompress to a huge
  one.
  """
  too_long = FileError(path, expected, f'more than {max_bytes:,} bytes')
  with (
    reading(path, expected),
    _OPENERS.get(pathlib.Path(path).suffix, open)(path, 'rb') as stream,
    _Bounded(stream, max_bytes, too_long) as bounded,
  ):
    yield io.BufferedReader(bounded, 1 << 16)


@contextlib.contextmanager
def opening_tar(path: str | os.PathLike[str], max_bytes: int) -> Iterator[tarfile.TarFile]:
  """An archive whose members are read in order, inside `reading`, bounded as in `opening`.

  At the end the rest of the file is read, which checks the checksum of a compressed file. A member
  may claim to be longer than the archive: the caller must check `size` before reading it.
  """
  with opening(path, 'a complete tar archive', max_bytes) as stream:
    with tarfile.open(fileobj=stream, mode='r|') as archive:
      yield archive
    while stream.read(1 << 20):
      pass
