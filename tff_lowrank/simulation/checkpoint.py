"""Checkpoints of a run: a resumed run gives the same results as an uninterrupted one.

A checkpoint is a folder `round_0000000010` with
  checkpoint.json          format, version, round, the run's flags, size and SHA-256 of the other
                           files, length and SHA-256 of the logs, and its own SHA-256
  state.safetensors        the server's state, tensor by tensor, and other arrays of the run
  clients                  the client state, client by client; for a store on disk only the round,
                           the identity of the store, and a digest of the client state
Sampling of clients, the order of batches and the randomness of codecs depend only on the seed and
the round, so nothing else of them needs to be saved.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import dataclasses
from importlib import metadata
import logging
import pathlib
from typing import Any, BinaryIO

import numpy as np
import safetensors
from safetensors import SafetensorError
from safetensors import numpy as safetensors_numpy
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import client_state
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import manifest

FORMAT = 2
_STATE = 'state.safetensors'
_CLIENTS = 'clients'

# safetensors's own reader of arrays lacks bfloat16.
_DTYPES = {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': tf.bfloat16.as_numpy_dtype,
  'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8,
  'U64': np.uint64, 'U32': np.uint32, 'U16': np.uint16, 'U8': np.uint8,
  'BOOL': np.bool_, 'C64': np.complex64,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Restored:
  """The restored state of a run.

  round_num: the last finished round.
  state: the server's state after it.
  extras: the extras given to `save`.
  """

  round_num: int
  state: Any
  extras: Mapping[str, np.ndarray]


def version() -> str:
  """The version whose checkpoints this code can resume."""
  try:
    return metadata.version('tff-lowrank')
  except metadata.PackageNotFoundError:
    return 'unknown'


def _tensors(prefix: str, leaves: Sequence[Any]) -> dict[str, np.ndarray]:
  return {f'{prefix}/{i}': np.array(leaf, order='C') for i, leaf in enumerate(leaves)}


def _load(data: bytes) -> dict[str, np.ndarray]:
  try:
    tensors = safetensors.deserialize(data)
  except SafetensorError as e:
    raise manifest.DamagedError(f'not a safetensors file: {e}') from e
  try:
    return {
      name: np.frombuffer(tensor['data'], _DTYPES[tensor['dtype']]).reshape(tensor['shape'])
      for name, tensor in tensors
    }
  except KeyError as e:
    raise manifest.DamagedError(f'numbers of type {e} cannot be read') from e


class Checkpoints:
  """The checkpoints of one run, newest last."""

  def __init__(
    self,
    folder: pathlib.Path,
    flags: Mapping[str, Any],
    logs: Mapping[str, append_log.AppendLog],
    keep: int = 2,
  ):
    """Opens the folder, created if needed.

    Args:
      folder: A folder for checkpoints only.
      flags: The run's settings; only a run with the same settings can be resumed.
      logs: Append-only files of the run, by name; a checkpoint has their positions.
      keep: The number of checkpoints to keep; older ones are used if the newest is damaged.
    """
    checks.check_at_least('keep', keep, 1)
    self._folder = folder
    self._flags = dict(flags)
    self._logs = dict(logs)
    self._keep = keep
    folder.mkdir(parents=True, exist_ok=True)

  def rounds(self) -> list[int]:
    """The rounds with checkpoints."""
    return manifest.saved_rounds(self._folder)

  def _path(self, round_num: int) -> pathlib.Path:
    return manifest.path_of(self._folder, round_num)

  def save(
    self,
    round_num: int,
    state: Any,
    store: client_state.Store,
    extras: Mapping[str, np.ndarray] | None = None,
  ) -> None:
    """Writes a checkpoint after a round, verifies it by reading, then removes old ones.

    If any of this fails, raises OSError and leaves all earlier checkpoints unchanged.
    """
    checks.check_at_least('round_num', round_num, 0)
    temporary = self._folder / '.new'
    try:
      if temporary.exists():
        file_operations.remove_folder(temporary)
      temporary.mkdir()
      content = dict(
        format=FORMAT,
        version=version(),
        round=round_num,
        flags=self._flags,
        files=self._write_files(temporary, state, store, extras or {}),
        logs={name: list(log.sync()) for name, log in self._logs.items()},
      )
      file_operations.write_new(temporary / manifest.FILE, manifest.seal(content))
      file_operations.sync_folder(temporary)
      self._read_back(temporary, round_num, state, store)
      file_operations.rename(temporary, self._path(round_num))
      file_operations.sync_folder(self._folder)
    except (OSError, manifest.DamagedError) as e:
      raise OSError(
        f'{self._folder}: the checkpoint of round {round_num} could not be written: {e}. Earlier '
        'ones are unchanged. Check that the disk has room and the folder still exists, then '
        'run the same command again.'
      ) from e
    kept = self.rounds()[-self._keep :]
    store.keep(kept)
    for old in self.rounds()[: -self._keep]:
      file_operations.remove_folder(self._path(old))

  def _write_files(
    self,
    folder: pathlib.Path,
    state: Any,
    store: client_state.Store,
    extras: Mapping[str, np.ndarray],
  ) -> dict[str, dict[str, Any]]:
    """Writes the server's and the client state, and returns size and SHA-256 of each file."""
    tensors = _tensors('state', tf.nest.flatten(state))
    tensors |= {f'extra/{name}': np.array(value, order='C') for name, value in extras.items()}
    written = {}
    with file_operations.NewFile(folder / _STATE) as file:
      file.write(safetensors_numpy.save(tensors))
    written[_STATE] = file.digest
    with file_operations.NewFile(folder / _CLIENTS) as file:
      store.save(file.write)
    written[_CLIENTS] = file.digest
    return written

  def _read(self, path: pathlib.Path, round_num: int) -> dict[str, Any]:
    """The content of a checkpoint; raises DamagedError if it or its files have changed."""
    try:
      content = manifest.unseal(file_operations.read_bytes(path / manifest.FILE))
      self._check_version(content)
      if content['round'] != round_num:
        raise manifest.DamagedError(f'its {manifest.FILE} is that of round {content["round"]}')
      for name, expected in content['files'].items():
        found = file_operations.digest(path / name)
        if found != expected:
          raise manifest.DamagedError(
            f'{name} is damaged: {found["bytes"]} bytes instead of {expected["bytes"]}, '
            'or other content'
          )
    except OSError as e:
      raise manifest.DamagedError(f'it cannot be read: {e}') from e
    return content

  def _read_back(
    self, path: pathlib.Path, round_num: int, state: Any, store: client_state.Store
  ) -> None:
    """Raises DamagedError unless the checkpoint could be restored."""
    self._read(path, round_num)
    self._state(path, state)
    with self._reading_clients(path) as saved:
      store.check(round_num, saved)

  @contextlib.contextmanager
  def _reading_clients(self, path: pathlib.Path) -> Iterator[BinaryIO]:
    """The file of the client state; inside, an error in restoring becomes a DamagedError."""
    try:
      with file_operations.open_to_read(path / _CLIENTS) as saved:
        yield saved
    except (OSError, ValueError) as e:
      raise manifest.DamagedError(str(e)) from e

  def _check_version(self, content: Mapping[str, Any]) -> None:
    for name, mine in (('format', FORMAT), ('version', version())):
      found = content.get(name)
      if found != mine:
        raise manifest.MismatchError(
          f'{self._folder}: expected checkpoints of {name} {mine}, found {found}. Resume with '
          'the version they were made with, or use another --output_dir.'
        )

  def _check(self, content: Mapping[str, Any]) -> None:
    manifest.check_same_run(self._folder, content['flags'], self._flags)
    for name, log in self._logs.items():
      if not log.holds(append_log.Position(*content['logs'][name])):
        raise manifest.DamagedError(
          f'{log.path} does not start with the content that was written before it'
        )

  def restore(self, like: Any, store: client_state.Store) -> Restored | None:
    """Restores store and logs from the newest undamaged checkpoint; None if there is none.

    Without checkpoints, store and logs are emptied. A damaged checkpoint is skipped with a warning.

    Args:
      like: A server state with the run's structure.
      store: The store to which the client state is restored.

    Raises:
      MismatchError: If the checkpoints are of another run or version.
      DamagedError: If there are checkpoints, but all are damaged.
    """
    rounds = self.rounds()
    whole, problems = None, []
    for round_num in reversed(rounds):
      path = self._path(round_num)
      try:
        content = self._read(path, round_num)
        self._check(content)
        state, extras = self._state(path, like)
        with self._reading_clients(path) as saved:
          store.restore(round_num, saved)
      except manifest.DamagedError as e:
        problems.append(f'{path} cannot be used: {str(e).rstrip(".")}')
        logging.warning('%s; trying the previous one.', problems[-1])
        continue
      whole = round_num
      break
    if whole is None:
      if rounds:
        raise manifest.DamagedError(
          f'{problems[0]}, and all others are damaged. Delete {self._folder} to start again.'
        )
      store.restore(None)
      for log in self._logs.values():
        log.rewind()
      return None
    store.keep([r for r in rounds if r <= whole])
    for name, log in self._logs.items():
      log.rewind(append_log.Position(*content['logs'][name]))
    for damaged in (r for r in rounds if r > whole):
      aside = self._path(damaged).with_suffix('.damaged')
      if aside.exists():
        file_operations.remove_folder(aside)
      file_operations.rename(self._path(damaged), aside)
    return Restored(whole, state, extras)

  def _state(self, path: pathlib.Path, like: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """The server's state, with the structure of `like`, and the extras of a checkpoint."""
    try:
      tensors = _load(file_operations.read_bytes(path / _STATE))
    except OSError as e:
      raise manifest.DamagedError(f'it cannot be read: {e}') from e
    extras = {k.removeprefix('extra/'): v for k, v in tensors.items() if k.startswith('extra/')}
    expected = tf.nest.flatten(like)
    leaves = [tensors[f'state/{i}'] for i in range(len(tensors) - len(extras))]
    found = [(leaf.dtype.name, leaf.shape) for leaf in leaves]
    wanted = [(np.asarray(leaf).dtype.name, np.asarray(leaf).shape) for leaf in expected]
    if found != wanted:
      raise manifest.MismatchError(
        f'{self._folder}: expected a server state of {wanted}, found {found}. Give another '
        '--output_dir.'
      )
    return tf.nest.pack_sequence_as(like, leaves), extras
