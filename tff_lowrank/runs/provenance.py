"""Writes `run.json`: everything needed to repeat a run."""

from collections.abc import Iterator, Mapping
import contextlib
import datetime
from importlib import metadata
import json
import logging
import os
import pathlib
import platform
import subprocess
import time
from typing import Any

from tff_lowrank import files
from tff_lowrank.reports import run_files
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import manifest

PACKAGES = ('tff-lowrank', 'tensorflow-federated', 'tensorflow', 'jax', 'jaxlib', 'numpy')


def _git(*arguments: str) -> str | None:
  """Output of git in the folder of this file, or None if it fails, as outside a checkout."""
  folder = pathlib.Path(__file__).resolve().parent
  try:
    done = subprocess.run(
      ['git', *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
    )
  except (OSError, subprocess.SubprocessError):
    return None
  return done.stdout.strip()


def _version(package: str) -> str | None:
  try:
    return metadata.version(package)
  except metadata.PackageNotFoundError:
    return None


# Instruction sets of x86-64 for which libraries have different code.
_INSTRUCTIONS = ('avx', 'avx2', 'fma', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_tile')


def numerics() -> dict[str, str]:
  """What can change the last digits of a run's numbers, besides its flags and versions."""
  flags_line = next(
    (line for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines() if 'flags' in line), ''
  )
  return dict(
    intra_op_threads=os.environ.get('TF_NUM_INTRAOP_THREADS', 'one a core'),
    onednn=os.environ.get('TF_ENABLE_ONEDNN_OPTS', '1'),
    xla_platforms=os.environ.get('JAX_PLATFORMS', 'all'),
    instructions=' '.join(name for name in _INSTRUCTIONS if name in flags_line.split()),
  )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
  """`NAME was A and is B` for what can change the digits of a resumed run."""
  changes = []
  kinds = [(before.get(kind, {}), now[kind]) for kind in ('numerics', 'versions')]
  for what, source in now['sources'].items():
    old = before.get('sources', {}).get(what, {})
    named = [{f'{what} {k}': v for k, v in x.items()} for x in (old, source)]
    kinds.append((named[0], named[1]))
  for old, new in kinds:
    changes += [
      f'{name} was {old[name]} and is {new[name]}'
      for name in new
      if name in old and old[name] != new[name]
    ]
  if before.get('devices', now['devices']) != now['devices']:
    changes.append(f'devices were {before["devices"]} and are {now["devices"]}')
  return changes


def _now() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')


def read_record(path: pathlib.Path) -> dict[str, Any] | None:
  """Reads a `RunRecord`; None if there is none or, with a warning, if it is damaged."""
  try:
    return run_files.read_record(path)
  except FileNotFoundError:
    return None
  except files.FileError as e:
    logging.warning('%s It is ignored.', e)
    return None


class RunRecord:
  """Keeps `run.json` up to date: the status is `running`, then `completed`, `failed` or `stopped`.

  `stopped` is a run that a signal ended after it was saved. A resumed run keeps its `started`
  time, appends to `resumed`, and adds to `wall_seconds`. It warns if `numerics`, `versions` or
  `devices` have `changed`, since this may change digits.
  """

  def __init__(
    self,
    path: pathlib.Path,
    flags: dict[str, Any],
    devices: list[str],
    before: Mapping[str, Any] | None = None,
    sources: Mapping[str, Mapping[str, str]] | None = None,
    **facts: Any,
  ):
    """Writes the record of a run that starts now.

    Args:
      path: The file to write.
      flags: All settings that decide the run's numbers.
      devices: The names of the devices it may use.
      before: The record of the run so far, if it is resumed.
      sources: Versions of code outside this package, such as a user's task.
      **facts: Other fields of the record.
    """
    before = before or {}
    self._before = before.get('wall_seconds', 0.0)
    self._path = path
    self._start = time.monotonic()
    is_checkout = _git('ls-files', '--error-unmatch', __file__) is not None
    status = _git('status', '--porcelain') if is_checkout else None
    self._record = dict(
      flags=flags,
      versions={'python': platform.python_version()} | {p: _version(p) for p in PACKAGES},
      git=dict(
        commit=_git('rev-parse', 'HEAD') if is_checkout else None,
        dirty=bool(status) if status is not None else None,
      ),
      devices=devices,
      numerics=numerics(),
      sources={what: dict(source) for what, source in (sources or {}).items()},
      started=before.get('started', _now()),
      **facts,
    )
    if before:
      self._record['resumed'] = [*before.get('resumed', ()), _now()]
      changes = _changes(before, self._record)
      if changes or 'changed' in before:
        self._record['changed'] = [*before.get('changed', ()), *changes]
      if changes:
        logging.warning(
          '%s: the run is resumed, but %s. Its numbers may differ in the last digits from those of '
          'a run that was not interrupted.', path, '; '.join(changes)
        )  # fmt: skip
    self.update('running')

  def update(self, status: str, **facts: Any) -> None:
    """Sets the status and adds `facts`."""
    seconds = round(self._before + time.monotonic() - self._start, 3)
    self._record |= dict(status=status, wall_seconds=seconds, **facts)
    file_operations.replace(self._path, (json.dumps(self._record, indent=2) + '\n').encode())

  def update_if_possible(self, status: str, **facts: Any) -> None:
    """As `update`, but only warns if the file cannot be written any more."""
    try:
      self.update(status, **facts)
    except OSError as e:
      logging.warning('%s could not be written: %s', self._path, e)


@contextlib.contextmanager
def recorded(path: pathlib.Path, flags: dict[str, Any]) -> Iterator[None]:
  """Keeps a `RunRecord` of a `with` block, which cannot be resumed.

  Raises manifest.MismatchError if there is a record of other flags, whose files would be lost, and
  FileError if that record is damaged.
  """
  if path.exists():
    manifest.check_same_run(path.parent, run_files.read_record(path)['flags'], flags)
  record = RunRecord(path, flags, [])
  try:
    yield
  except BaseException as e:
    record.update_if_possible('failed', error=f'{type(e).__name__}: {e}')
    raise
  record.update('completed')
