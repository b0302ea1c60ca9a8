"""Where a run keeps the client state, and whether there is room for it."""

from collections.abc import Mapping
import pathlib
import shutil
from typing import Any
import uuid

import psutil

from tff_lowrank import client_state
from tff_lowrank import files
from tff_lowrank import settings
from tff_lowrank.reports import run_files
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import manifest

FOLDER = 'client_memory'

# The client state goes to disk if it could take more than this fraction of the free memory.
_SMALL_PART = 0.1


def choose(spec: spec_lib.RunSpec, folder: pathlib.Path, num_clients: int, initial: Any) -> str:
  """`ram`, `disk` or `disk_float16`; a resumed run keeps its first choice.

  Args:
    spec: The run; `--client_memory=auto` chooses automatically.
    folder: The run's folder.
    num_clients: The number of clients that could have state.
    initial: The state of a new client.
  """
  if spec.client_memory != 'auto':
    return spec.client_memory
  if (folder / FOLDER).exists():
    return 'disk'
  if manifest.saved_rounds(folder / run_files.CHECKPOINTS):
    return 'ram'
  needed = num_clients * client_state.Packing(initial).num_bytes
  return 'disk' if needed > _SMALL_PART * psutil.virtual_memory().available else 'ram'


def _human(num_bytes: float) -> str:
  for unit in ('bytes', 'kB', 'MB', 'GB'):
    if num_bytes < 1000:
      return f'{num_bytes:.3g} {unit}'
    num_bytes /= 1000
  return f'{num_bytes:,.1f} TB'


def check_fits(
  spec: spec_lib.RunSpec, folder: pathlib.Path, num_clients: int, initial: Any, kind: str
) -> None:
  """Raises SettingError if the client state cannot fit on the disk of `folder`.

  Only clients that take part have state: at most `clients_per_round` in each round. Arguments are
  those of `choose`, and its result.
  """
  clients = min(num_clients, spec.rounds * (spec.clients_per_round or num_clients))
  size = client_state.Packing(initial, kind == 'disk_float16').num_bytes
  own = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
  room = shutil.disk_usage(folder).free + own
  if clients * size > room:
    half = '' if kind == 'disk_float16' else '--client_memory=disk_float16 for half of it, '
    total = _human(clients * size)
    raise settings.SettingError(
      f'The state of {clients:,} clients, {_human(size)} each, takes {total}; the disk of {folder}'
      f' has {_human(room)} free. Use {half}--method=lbgm_shared, whose clients have no state, '
      'fewer clients (--num_clients), or an --output_dir on a larger disk.'
    )


def identity(before: Mapping[str, Any] | None) -> str:
  """The identity of the run's store on disk: from its record `before`, or a new one."""
  return (before or {}).get('client_memory_identity') or uuid.uuid4().hex


def open_store(
  kind: str, folder: pathlib.Path, initial: Any, cap_mb: int, store_identity: str
) -> client_state.Store:
  """Opens the store of the kind that `choose` returned, with the `identity` of the run.

  Raises what `LmdbStore` raises, and FileError if the store is a symbolic link, or if it belongs
  to another run and no checkpoint says which store belongs to this run.
  """
  if kind == 'ram':
    return client_state.MemoryStore(initial)
  path = folder / FOLDER
  if path.is_symlink():
    raise files.FileError(path, "a folder of this run's own", 'a symbolic link')
  has_checkpoint = bool(manifest.saved_rounds(folder / run_files.CHECKPOINTS))
  return client_state.LmdbStore(
    initial,
    path,
    ram_cap_bytes=cap_mb << 20,
    float16=kind == 'disk_float16',
    identity=None if has_checkpoint else store_identity,
  )
