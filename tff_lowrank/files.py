"""Files that people hand us: one error for all that can be wrong with them.

Every reader of a user's file opens it inside `reading`, so that whatever the parser raises
becomes a `FileError`, which names the file, what was expected of it, and what was found.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import stat


class FileError(ValueError):
  """A file that cannot be used.

  path: the file.
  expected: what it should hold, as part of a sentence: `'a NumPy archive'`.
  found: what it holds, or what went wrong in reading it.
  """

  def __init__(self, path: str | os.PathLike[str], expected: str, found: str):
    self.path, self.expected, self.found = pathlib.Path(path), expected, found
    super().__init__(f'{path}: expected {expected}, found {found.rstrip(".")}.')


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
    raise FileError(path, expected, kinds.get(stat.S_IFMT(mode), 'no regular file'))


@contextlib.contextmanager
def reading(path: str | os.PathLike[str], expected: str) -> Iterator[None]:
  """Inside, whatever is raised about the content of `path` becomes a `FileError`.

  An OSError of the system (no such file, no permission, a full disk) passes as it is: it names
  the file and says what is wrong. One that a parser raises, without a number, does not.
  """
  check_regular(path, expected)
  try:
    yield
  except FileError:
    raise
  except OSError as e:
    if e.errno is not None:
      raise
    raise FileError(path, expected, f'{type(e).__name__}: {e}') from e
  except Exception as e:
    raise FileError(path, expected, f'{type(e).__name__}: {e}') from e
