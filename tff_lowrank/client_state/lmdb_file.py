"""An LMDB file that is checked before it is opened, locked by one process, and grows as needed."""

from collections.abc import Callable, Iterator
import contextlib
import json
import mmap
import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import lmdb

from tff_lowrank import file_lock
from tff_lowrank import files
from tff_lowrank.client_state import lmdb_check

# The map grows by this much address space; the file takes only what is used.
_MAP_STEP_BYTES = 1 << 26
# Imports the module without its package, which imports TensorFlow and takes seconds.
_CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import lmdb_check
sys.exit(lmdb_check.main(sys.argv[2]))
"""


def checked_contents(path: pathlib.Path) -> dict[str, Any]:
  """`lmdb_check.contents` of a file; raises FileError if none of it can be used.

  Runs in a separate process, so that even a crash becomes a one-sentence error.
  """
  module = pathlib.Path(lmdb_check.__file__)
  command = [sys.executable, '-I', '-S', '-c', _CHECK, str(module.parent), str(path)]
  done = subprocess.run(command, capture_output=True, text=True, errors='replace', check=False)
  if done.returncode == 0:
    return json.loads(done.stdout)
  if done.returncode == lmdb_check.DAMAGED_STATUS:
    problem = done.stdout.strip()
  elif done.returncode < 0:
    problem = f'that reading it ends with {signal.Signals(-done.returncode).name}'
  else:
    problem = (done.stderr.strip().splitlines() or ['that reading it fails'])[-1]
  raise files.FileError(
    path,
    'undamaged client state',
    f'{problem}. Restore the file, or start again with another --output_dir',
  )


class LmdbFile:
  """The file `data.mdb` of a folder, and transactions on it; threads take turns.

  contents: the content of the file before it was opened; see `lmdb_check.contents`.
  """

  def __init__(self, folder: pathlib.Path):
    """Checks and opens the file, created if needed.

    Raises:
      BlockingIOError: If the folder is in use, by this or another process.
      OSError: If the folder cannot be written.
      FileError: If the file is damaged, or not a regular file.
    """
    self._folder = folder
    # LMDB does not allow its map to grow while another thread reads.
    self._lock = threading.RLock()
    self._env: lmdb.Environment | None = None
    folder.mkdir(parents=True, exist_ok=True)
    self._held = self._hold()
    try:
      self._open()
    except BaseException:
      self.close()
      raise

  def _hold(self) -> int:
    try:
      return file_lock.hold(self._folder / 'store.lock')
    except file_lock.InUseError as e:
      raise BlockingIOError(
        f'{self._folder}: client state is in use by process {e.holder}. Wait for it, or use '
        'another folder.'
      ) from e
    except OSError as e:
      raise OSError(f'{self._folder}: client state could not be opened: {e.strerror}.') from e

  def _open(self) -> None:
    path = self._folder / 'data.mdb'
    if path.exists():
      files.check_regular(path, 'client state')
      # LMDB reports a file as damaged if the disk had no room for its first two, empty pages.
      if path.stat().st_size < 2 * mmap.PAGESIZE:
        path.unlink()
    self.contents: dict[str, Any] = dict(about=None, damage={})
    size = _MAP_STEP_BYTES
    if path.exists():
      self.contents = checked_contents(path)
      size += path.stat().st_size
    self._check_address_space(size)
    # `store.lock` replaces LMDB's own lock. Without `metasync` a power cut may undo the last
    # rounds, but not damage the file.
    with self._errors():
      self._env = lmdb.open(
        os.fsencode(self._folder),
        map_size=size,
        max_dbs=4,
        lock=False,
        metasync=False,
        readahead=False,
      )

  @contextlib.contextmanager
  def _errors(self) -> Iterator[None]:
    """Inside, an error of LMDB becomes an OSError that names the folder."""
    try:
      yield
    except lmdb.Error as e:
      is_memory = isinstance(e, lmdb.MemoryError)
      raise OSError(
        f'{self._folder}: client state could not be read or written: {e}. Check that '
        f'{"there is memory (ulimit -v)" if is_memory else "the disk has room"}, then run the '
        'same command again.'
      ) from e

  def _check_address_space(self, more: int) -> None:
    """Raises OSError if the map cannot grow; LMDB would lose the existing map."""
    try:
      mmap.mmap(-1, more, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ).close()
    except OSError as e:
      raise OSError(
        f'{self._folder}: client state needs {more} more bytes of address space: {e.strerror}. '
        'Raise the limit (ulimit -v), then run the same command again.'
      ) from e

  @property
  def _opened(self) -> lmdb.Environment:
    assert self._env is not None
    return self._env

  def table(self, name: bytes, txn: lmdb.Transaction) -> Any:
    """A table of the file, created if needed."""
    return self._opened.open_db(name, txn)

  @contextlib.contextmanager
  def reading(self) -> Iterator[lmdb.Transaction]:
    """A read transaction."""
    with self._lock, self._errors(), self._opened.begin() as txn:
      yield txn

  def write(self, action: Callable[..., None], *args: Any) -> None:
    """Calls `action` with a transaction and `args`; again if the map must grow first."""
    with self._lock, self._errors():
      while True:
        try:
          with self._opened.begin(write=True) as txn:
            action(txn, *args)
          return
        except lmdb.MapFullError:
          self._check_address_space(_MAP_STEP_BYTES)
          self._opened.set_mapsize(self._opened.info()['map_size'] + _MAP_STEP_BYTES)

  def release(self) -> None:
    """Maps the file again, since pages that were read count as this process's memory."""
    with self._lock, self._errors():
      self._opened.set_mapsize(self._opened.info()['map_size'])

  def sync(self) -> None:
    """Makes written data survive a power cut."""
    with self._lock, self._errors():
      self._opened.sync(True)

  def close(self) -> None:
    """Closes the file and unlocks it."""
    if self._env is not None:
      self._env.close()
    if self._held >= 0:
      os.close(self._held)
    self._held = -1
