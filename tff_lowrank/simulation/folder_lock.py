"""One run at a time in a folder."""

import fcntl
import os
import pathlib
from typing import Any

FILE = 'run.lock'


class FolderLock:
  """Holds a folder for this process while the block runs; the system frees it with the process.

  Entering raises BlockingIOError if another holds it, OSError if the folder cannot be written.
  """

  def __init__(self, folder: pathlib.Path):
    self._path = folder / FILE

  def _unwritable(self, error: OSError) -> OSError:
    return OSError(
      f'{self._path.parent} cannot be written to: {error.strerror}. Give another --output_dir.'
    )

  def __enter__(self) -> 'FolderLock':
    try:
      self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as e:
      raise self._unwritable(e) from e
    try:
      fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
      holder = os.read(self._descriptor, 20).decode(errors='replace') or 'unknown'
      os.close(self._descriptor)
      raise BlockingIOError(
        f'{self._path.parent} is in use by another run, process {holder}. Wait for it, or give '
        'another --output_dir.'
      ) from e
    try:
      os.ftruncate(self._descriptor, 0)
      os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
    except OSError as e:
      os.close(self._descriptor)
      raise self._unwritable(e) from e
    return self

  def __exit__(self, *exception: Any) -> None:
    os.close(self._descriptor)
