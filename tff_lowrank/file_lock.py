"""A lock file, held by one process at a time."""

import fcntl
import os
import pathlib


class InUseError(BlockingIOError):
  """Another process holds the file.

  holder: its process id, or `unknown`.
  """

  def __init__(self, path: pathlib.Path, holder: str):
    self.holder = holder
    super().__init__(f'{path} is in use by process {holder}.')


def hold(path: pathlib.Path) -> int:
  """Locks `path`, created if needed, until the returned descriptor is closed or the process ends.

  Raises InUseError if another descriptor holds it, OSError if it cannot be written.
  """
  descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  try:
    try:
      fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as e:
      raise InUseError(path, os.read(descriptor, 20).decode(errors='replace') or 'unknown') from e
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
  except BaseException:
    os.close(descriptor)
    raise
  return descriptor
