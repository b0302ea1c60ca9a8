"""A lock, so that only one run at a time uses a folder."""

import os
import pathlib
from typing import Any

from tff_lowrank import file_lock

FILE = 'run.lock'


class FolderLock:
  """Locks a folder for this process inside a `with` block; the system frees it if the process ends.

  Entering raises BlockingIOError if another process holds it, OSError if the folder cannot be
  written.
  """

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  def __enter__(self) -> 'FolderLock':
    try:
      self._descriptor = file_lock.hold(self._folder / FILE)
    except file_lock.InUseError as e:
      raise BlockingIOError(
        f'{self._folder} is in use by another run, process {e.holder}. Wait for it, or use '
        'another --output_dir.'
      ) from e
    except OSError as e:
      raise OSError(
        f'{self._folder} cannot be written to: {e.strerror}. Use another --output_dir.'
      ) from e
    return self

  def __exit__(self, *exception: Any) -> None:
    os.close(self._descriptor)
