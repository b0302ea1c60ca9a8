"""What a run left in its folder, read back and compared with what the run wrote.

run.json has its own SHA-256 and, once the run has ended, those of the files of its numbers; the
newest checkpoint has the run's flags, and the SHA-256 of what metrics.csv and ledger.arrows began
with. Whatever is wrong with a file is a `files.FileError`.
"""

from collections.abc import Mapping
import hashlib
import io
import json
import math
import pathlib
from typing import Any

import pandas as pd

from tff_lowrank import files
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import manifest

RECORD = 'run.json'
METRICS = 'metrics.csv'
# The entries of ledger.parquet, to which nothing can be appended, as an Arrow IPC stream.
STREAM = 'ledger.arrows'
LEDGER = 'ledger.parquet'
FREEZING = 'freezing.npz'
CHECKPOINTS = 'checkpoints'

# Columns of metrics.csv that reports read; in these there is a whole number in every row.
_COUNTS = ('round', 'uplink_bytes', 'downlink_bytes', 'cumulative_uplink_bytes',
           'cumulative_downlink_bytes', 'dropped_clients')  # fmt: skip
_COLUMNS = (*_COUNTS, 'train_loss', 'eval_loss', 'eval_accuracy', 'eval_personal_accuracy',
            'round_seconds')  # fmt: skip

_CHECKSUM = 'sha256'
_KINDS = dict(flags=dict, status=str, started=str, wall_seconds=(int, float))
_KINDS_IF_THERE = dict(resumed=list, versions=dict, git=dict, devices=list, files=dict)


def _hash(path: pathlib.Path, length: int) -> append_log.Position:
  """How many bytes there are, up to `length`, and their SHA-256; nothing of no regular file."""
  if not path.is_file():
    return append_log.START
  found, count = hashlib.sha256(), 0
  with open(path, 'rb') as file:
    while data := file.read(min(length - count, 1 << 20)):
      found.update(data)
      count += len(data)
  return append_log.Position(count, found.hexdigest())


def positions(folder: pathlib.Path) -> dict[str, append_log.Position]:
  """Length and SHA-256 of each file of numbers that there is."""
  paths = (folder / name for name in (METRICS, STREAM, LEDGER, FREEZING))
  return {path.name: _hash(path, path.stat().st_size) for path in paths if path.exists()}


def _checksum(record: Mapping[str, Any]) -> str:
  content = {name: value for name, value in record.items() if name != _CHECKSUM}
  return manifest.digest(json.dumps(content, sort_keys=True).encode())['sha256']


def seal(record: Mapping[str, Any]) -> bytes:
  """The content of a run.json, which `read_record` takes."""
  return (json.dumps({**record, _CHECKSUM: _checksum(record)}, indent=2) + '\n').encode()


def read_record(path: pathlib.Path) -> dict[str, Any]:
  """What a run.json says; raises FileError if it is damaged, FileNotFoundError if it is not there.

  One without a checksum is taken as it is.
  """
  with files.reading(path, 'the record of a run'):
    record = json.loads(path.read_bytes())
    for name, kind in {**_KINDS, **_KINDS_IF_THERE}.items():
      if not isinstance(record[name] if name in _KINDS else record.get(name, kind()), kind):
        raise files.FileError(path, f'`{name}` as a run writes it', repr(record[name])[:80])
    if not math.isfinite(record['wall_seconds']):
      raise files.FileError(path, 'a finite `wall_seconds`', str(record['wall_seconds']))
    if record.get(_CHECKSUM, _checksum(record)) != _checksum(record):
      raise files.FileError(path, 'what the run wrote', 'other content: its checksum differs')
  return record


def _check_start(path: pathlib.Path, written: append_log.Position, is_all: bool) -> None:
  """Raises FileError unless `path` begins with what was written, or is that if `is_all`."""
  found = _hash(path, written.length + is_all)
  if found != written:
    raise files.FileError(
      path,
      f'{"" if is_all else "first "}the {written.length} bytes that the run wrote',
      f'{"no file" if not path.exists() else "others"}. The command that made the run goes on '
      'from a checkpoint before the damage, or says that there is none',
    )


def check(folder: pathlib.Path) -> None:
  """Raises FileError if the numbers in `folder` are not those that its run wrote.

  Of a run that goes on, what its newest checkpoint has not seen is not known.
  """
  record = read_record(folder / RECORD)
  with files.reading(folder / RECORD, 'length and SHA-256 of files'):
    written = {name: append_log.Position(*found) for name, found in record.get('files', {}).items()}
  for name, position in written.items():
    _check_start(folder / name, position, is_all=True)
  newest = next(manifest.newest_first(folder / CHECKPOINTS), None)
  if newest is None:
    return
  differing = manifest.differing_flags(newest.flags, record['flags'])
  if differing:
    expected = f'the flags of the run in {folder / CHECKPOINTS}'
    raise files.FileError(folder / RECORD, expected, f'others: {", ".join(differing)}')
  for name, position in newest.logs.items():
    _check_start(folder / name, position, is_all=False)


def _parse_metrics(path: pathlib.Path, data: bytes) -> pd.DataFrame:
  metrics = pd.read_csv(io.BytesIO(data))
  for name in {**dict.fromkeys(_COLUMNS), **dict.fromkeys(metrics)}:
    is_right = name in metrics and metrics[name].dtype.kind in ('i' if name in _COUNTS else 'if')
    if not is_right:
      found = str(metrics[name].tolist())[:80] if name in metrics else 'none'
      raise files.FileError(path, f'a column of numbers called {name!r}', found)
  if metrics['round'].tolist() != [*range(1, len(metrics) + 1)]:
    raise files.FileError(path, 'rounds 1, 2, 3 and so on', f'{metrics["round"].tolist()[:20]}')
  return metrics


def read_metrics(folder: pathlib.Path) -> pd.DataFrame:
  """The rows of metrics.csv, one or more, a round each from 1 on; all cells are numbers or NaN."""
  path = folder / METRICS
  with files.reading(path, 'the metrics of a run'):
    metrics = _parse_metrics(path, path.read_bytes())
    if metrics.empty:
      raise files.FileError(path, 'the metrics of a run', 'no rounds')
  return metrics


def read_saved_metrics(folder: pathlib.Path) -> pd.DataFrame | None:
  """The rows of the rounds that a run goes on from, as `read_metrics`; None if it starts anew."""
  path = folder / METRICS
  for saved in manifest.newest_first(folder / CHECKPOINTS):
    written = saved.logs.get(METRICS, append_log.START)
    if written.length and _hash(path, written.length) == written:
      with files.reading(path, 'the metrics of a run'):
        return _parse_metrics(path, path.read_bytes()[: written.length])
  return None
