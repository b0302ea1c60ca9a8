"""Reads the files in a run's folder, and checks that they are as the run wrote them.

SHA256SUMS, which `sha256sum -c` can check too, has the SHA-256 of the files of a finished run. The
newest checkpoint has the run's flags, and length and SHA-256 of metrics.csv and ledger.arrows at
that round. If a file is damaged, `files.FileError` is raised.
"""

from collections.abc import Iterable
import hashlib
import io
import json
import math
import pathlib
import re
from typing import Any
from urllib import parse

import pandas as pd

from tff_lowrank import files
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import manifest

RECORD = 'run.json'
METRICS = 'metrics.csv'
# The entries of ledger.parquet as an Arrow IPC stream, since a Parquet file cannot grow.
STREAM = 'ledger.arrows'
LEDGER = 'ledger.parquet'
FREEZING = 'freezing.npz'
CLIENTS = 'client_metrics.parquet'
SUMS = 'SHA256SUMS'
CHECKPOINTS = 'checkpoints'
_FILES = (RECORD, METRICS, STREAM, LEDGER, FREEZING, CLIENTS)

# Columns of metrics.csv that reports read; each row has whole numbers in these.
_COUNTS = ('round', 'uplink_bytes', 'downlink_bytes', 'cumulative_uplink_bytes',
           'cumulative_downlink_bytes', 'dropped_clients')  # fmt: skip
_COLUMNS = (*_COUNTS, 'train_loss', 'eval_loss', 'eval_accuracy', 'eval_personal_accuracy',
            'round_seconds')  # fmt: skip

_KINDS: dict[str, Any] = dict(flags=dict, status=str, started=str, wall_seconds=(int, float))
_KINDS_IF_THERE: dict[str, Any] = dict(
  resumed=list,
  versions=dict,
  git=dict,
  devices=list,
  numerics=dict,
  changed=list,
  metric=dict,
  sources=dict,
  method=dict,
  client_memory_identity=str,
)

_METRIC = dict(name=str, unit=str)


def run_name(label: str, seed: int) -> str:
  """The name of a run's folder: METHOD-seedN, with characters special in paths as %HH."""
  return f'{parse.quote(label, safe=" :=(),+", errors="surrogatepass")}-seed{seed}'


def _hash(path: pathlib.Path, length: float = math.inf) -> append_log.Position:
  """Length and SHA-256 of a file, up to `length` bytes; as if empty if it is not a file."""
  if not path.is_file():
    return append_log.START
  found, count = hashlib.sha256(), 0
  with open(path, 'rb') as file:
    while data := file.read(int(min(length - count, 1 << 20))):
      found.update(data)
      count += len(data)
  return append_log.Position(count, found.hexdigest())


def write_sums(folder: pathlib.Path) -> None:
  """Writes the SHA-256 of the files at the end of a run."""
  sums = [f'{_hash(folder / name).sha256}  {name}\n' for name in _FILES if (folder / name).exists()]
  file_operations.replace(folder / SUMS, ''.join(sums).encode())


def _read_sums(folder: pathlib.Path) -> dict[str, str]:
  """SHA-256 by file name; empty if the run is not finished."""
  path = folder / SUMS
  if not path.exists():
    return {}
  with files.reading(path, f'lines of sha256sum of {", ".join(_FILES)}'):
    lines = [line.split('  ') for line in path.read_text().splitlines()]
    sums = {name: sha256 for sha256, name in lines}
    there = {name for name in _FILES if (folder / name).exists()}
    if not there <= sums.keys() <= {*_FILES}:
      raise ValueError(f'lines of {", ".join(sums)}')
  return sums


def _check_sum(folder: pathlib.Path, name: str) -> None:
  """Raises FileError if a file has changed since the end of the run."""
  written = _read_sums(folder).get(name)
  if written not in (None, _hash(folder / name).sha256):
    raise _damaged(folder / name, f'the content that the run wrote, with the SHA-256 in {SUMS}')


def _damaged(path: pathlib.Path, expected: str) -> files.FileError:
  found = 'other content' if path.exists() else 'no file'
  return files.FileError(
    path,
    expected,
    f'{found}. The command of the run resumes it from a checkpoint before the damage, or reports '
    'that there is none',
  )


def read_record(path: pathlib.Path) -> dict[str, Any]:
  """Reads a run.json; raises FileError if it is damaged, FileNotFoundError if it is missing."""
  with files.reading(path, 'the record of a run'):
    record = json.loads(path.read_bytes())
    for name, kind in {**_KINDS, **_KINDS_IF_THERE}.items():
      if not isinstance(record[name] if name in _KINDS else record.get(name, kind()), kind):
        raise files.FileError(path, f'`{name}` as a run writes it', repr(record[name])[:80])
    if not all(isinstance(device, str) for device in record.get('devices', ())):
      raise files.FileError(path, 'names of `devices`', repr(record['devices'])[:80])
    if 'metric' in record and {k: type(v) for k, v in record['metric'].items()} != _METRIC:
      raise files.FileError(path, 'name and unit of `metric`', repr(record['metric'])[:80])
    if not math.isfinite(record['wall_seconds']):
      raise files.FileError(path, 'a finite `wall_seconds`', str(record['wall_seconds']))
    _check_sum(path.parent, path.name)
  return record


def check(folder: pathlib.Path) -> None:
  """Raises FileError if the numbers in `folder` are not those that its run wrote.

  For an unfinished run, only rounds before its newest checkpoint can be checked.
  """
  record = read_record(folder / RECORD)
  if record['status'] == 'completed' and not (folder / SUMS).exists():
    raise _damaged(folder / SUMS, 'the SHA-256 of the files of a finished run')
  for name in _FILES:
    _check_sum(folder, name)
  newest = next(manifest.newest_first(folder / CHECKPOINTS), None)
  if newest is None:
    return
  differing = manifest.differing_flags(newest.flags, record['flags'])
  if differing:
    expected = f'the flags of the run in {folder / CHECKPOINTS}'
    raise files.FileError(folder / RECORD, expected, f'others: {", ".join(differing)}')
  for name, written in newest.logs.items():
    if _hash(folder / name, written.length) != written:
      raise _damaged(
        folder / name, f'the first {written.length} bytes as its newest checkpoint recorded them'
      )


def column_of(metric: str) -> str:
  """The name of a metric in the columns of metrics.csv."""
  return '_'.join(re.findall('[a-z0-9]+', metric.lower()))


def to_columns(names: Iterable[str], metric: str) -> dict[str, str]:
  """Name -> column, where `..._accuracy` means the main metric, whose name is `metric`."""
  main = column_of(metric)
  return {name: re.sub('(^|_)accuracy$', rf'\1{main}', name) for name in names}


def main_metric(folder: pathlib.Path) -> str:
  """The name of the main metric of a run, which is called accuracy inside this package."""
  path = folder / RECORD
  return (
    read_record(path).get('metric', {}).get('name', 'accuracy') if path.exists() else 'accuracy'
  )


def _parse_metrics(path: pathlib.Path, data: bytes) -> pd.DataFrame:
  metrics = pd.read_csv(io.BytesIO(data))
  main = column_of(main_metric(path.parent))
  metrics = metrics.rename(columns=lambda name: re.sub(f'(^|_){main}$', r'\1accuracy', name))
  for name in {**dict.fromkeys(_COLUMNS), **dict.fromkeys(metrics)}:
    is_right = name in metrics and metrics[name].dtype.kind in ('i' if name in _COUNTS else 'if')
    if not is_right:
      found = str(metrics[name].tolist())[:80] if name in metrics else 'none'
      raise files.FileError(path, f'a column of numbers called {name!r}', found)
  if metrics['round'].tolist() != [*range(1, len(metrics) + 1)]:
    raise files.FileError(path, 'rounds 1, 2, 3 and so on', f'{metrics["round"].tolist()[:20]}')
  return metrics


def read_metrics(folder: pathlib.Path) -> pd.DataFrame:
  """The rows of metrics.csv, at least one, for rounds 1, 2, ...; all cells are numbers or NaN.

  Columns of the task's main metric are called `..._accuracy`, whatever it is: see `main_metric`.
  """
  path = folder / METRICS
  with files.reading(path, 'the metrics of a run'):
    metrics = _parse_metrics(path, path.read_bytes())
    if metrics.empty:
      raise files.FileError(path, 'the metrics of a run', 'no rounds')
  return metrics


def read_saved_metrics(folder: pathlib.Path) -> pd.DataFrame | None:
  """The rows of a run to resume, as `read_metrics`; None if it starts from the beginning."""
  path = folder / METRICS
  for saved in manifest.newest_first(folder / CHECKPOINTS):
    written = saved.logs.get(METRICS, append_log.START)
    if written.length and _hash(path, written.length) == written:
      with files.reading(path, 'the metrics of a run'):
        return _parse_metrics(path, path.read_bytes()[: written.length])
  return None
