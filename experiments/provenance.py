"""What is needed to run a run again: written to `run.json` beside its results."""

import datetime
from importlib import metadata
import json
import pathlib
import platform
import subprocess
import time
from typing import Any

PACKAGES = ('tff-lowrank', 'tensorflow-federated', 'tensorflow', 'jax', 'jaxlib', 'numpy')


def _git(*arguments: str) -> str | None:
  """Output of git in the folder of this file, or None outside a checkout."""
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


class RunRecord:
  """Keeps `run.json` up to date: `running`, then `completed` or `failed`."""

  def __init__(self, path: pathlib.Path, flags: dict[str, Any], devices: list[str]):
    """Writes the record of a run that starts now.

    Args:
      path: Where to write.
      flags: Every setting that decides the run's numbers.
      devices: Names of the devices it may use.
    """
    self._path = path
    self._start = time.monotonic()
    status = _git('status', '--porcelain')
    self._record = dict(
      flags=flags,
      versions={'python': platform.python_version()} | {p: _version(p) for p in PACKAGES},
      git=dict(
        commit=_git('rev-parse', 'HEAD'), dirty=bool(status) if status is not None else None
      ),
      devices=devices,
      started=datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    )
    self.update('running')

  def update(self, status: str, **facts: Any) -> None:
    """Sets the status and adds `facts`."""
    seconds = round(time.monotonic() - self._start, 3)
    self._record |= dict(status=status, wall_seconds=seconds, **facts)
    self._path.write_text(json.dumps(self._record, indent=2) + '\n')
