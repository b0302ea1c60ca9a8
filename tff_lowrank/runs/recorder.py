"""Writes a run's numbers: metrics.csv, ledger.parquet and TensorBoard events."""

import collections
from collections.abc import Iterator, Mapping, Sequence
import contextlib
import csv
import io
import logging
import os
import pathlib
import re
from typing import Any

import numpy as np
import tensorflow as tf

from tff_lowrank import ledger as ledger_lib
from tff_lowrank.reports import run_files
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import metrics as metrics_lib
from tff_lowrank.simulation import rounds

COLUMNS = (
  'round',
  'train_loss',
  'train_accuracy',
  'eval_loss',
  'eval_accuracy',
  'eval_personal_accuracy',
  'uplink_bytes',
  'downlink_bytes',
  'cumulative_uplink_bytes',
  'cumulative_downlink_bytes',
  'round_seconds',
  'participants',
  'dropped_clients',
)

# The keys of a method's own measurements.
METHOD_METRICS = (('aggregator', 'codec'), ('finalizer', 'freezing'))

_OF_BLOCK = re.compile(r'(?<=_by_block)/\d+$')

METRICS_FILE = run_files.METRICS
LEDGER_STREAM = run_files.STREAM


def method_metrics(metrics: Any, weight_names: Sequence[str] = ()) -> dict[str, float]:
  """Picks a method's own measurements, flat, from all metrics of its process.

  Values per trainable weight, `..._by_block`, are named by `weight_names`, else numbered.
  """
  found: dict[str, float] = {}
  for part, name in METHOD_METRICS:
    if isinstance(metrics[part], Mapping):
      found |= metrics_lib.flatten(metrics[part].get(name, {}))
  blocks = [name for name in found if _OF_BLOCK.search(name)]
  if len(blocks) == len(weight_names):
    names = dict(zip(blocks, weight_names, strict=True))
    found = {_OF_BLOCK.sub(f'/{names.get(n)}', n): value for n, value in found.items()}
  return found


def _measured(
  done: rounds.Round, evaluated: Mapping[str, Any] | None, weight_names: Sequence[str]
) -> dict[str, float]:
  """The cells of a row that are metrics."""
  cells = {f'eval_{name}': value for name, value in (evaluated or {}).items()}
  if done.metrics is not None:
    train = done.metrics['client_work']['train']
    cells |= {f'train_{name}': train[name] for name in ('loss', 'accuracy')}
  cells = {name: float(metrics_lib.number(name, value)) for name, value in cells.items()}
  return cells if done.metrics is None else cells | method_metrics(done.metrics, weight_names)


class Recorder:
  """Records rounds in a run folder. Use as a context manager: leaving it closes the files.

  metrics.csv and the ledger's stream are append-only logs. Checkpoints store the length of these
  `logs`, to cut off later rounds when they are restored; `save` and `restore` do the rest.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    own_columns: Sequence[str] = (),
    evaluated: Sequence[str] = (),
    main_metric: str = 'accuracy',
    weight_names: Sequence[str] = (),
  ):
    """Opens the files in `folder`.

    Args:
      folder: An existing folder.
      own_columns: Columns of the method's measurements, after the common ones.
      evaluated: Metrics of evaluations that have no column in `COLUMNS`; each gets the column
        `eval_` + its name.
      main_metric: The metric that is called `accuracy` inside this package; names its columns.
      weight_names: The names of the model's trainable weights; see `method_metrics`.
    """
    columns = (*COLUMNS, *(f'eval_{name}' for name in evaluated), *own_columns)
    self._folder, self._weight_names = folder, weight_names
    self._columns = run_files.to_columns(columns, main_metric)
    self._ledger = ledger_lib.Ledger()
    self._csv = append_log.AppendLog(folder / METRICS_FILE)
    self._stream = append_log.AppendLog(folder / LEDGER_STREAM)
    self.logs = {METRICS_FILE: self._csv, LEDGER_STREAM: self._stream}
    with self._writing_events():
      self._events = tf.summary.create_file_writer(os.fsencode(folder / 'tensorboard'))

  def __enter__(self) -> 'Recorder':
    return self

  def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
    for log in self.logs.values():
      log.close()
    try:
      with self._writing_events():
        self._events.close()
      self._write_parquet()
    except OSError:
      if error is None:
        raise
      logging.warning('%s: the ledger could not be written after the failure.', self._folder)

  @contextlib.contextmanager
  def _writing_events(self) -> Iterator[None]:
    """Inside, an error of TensorFlow becomes an OSError."""
    try:
      yield
    except tf.errors.OpError as e:
      raise OSError(f'{self._folder / "tensorboard"} could not be written: {e.message}') from e

  def _write_parquet(self) -> None:
    stream, target = self._folder / LEDGER_STREAM, self._folder / run_files.LEDGER
    temporary = self._folder / '.ledger.parquet.new'
    try:
      with file_operations.naming(target):
        ledger_lib.write_drained(str(stream), str(temporary))
        with open(temporary, 'rb') as written:
          file_operations.fsync(written.fileno())
        file_operations.rename(temporary, target)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise

  def save(self) -> dict[str, np.ndarray]:
    """The state for a checkpoint, besides the logs."""
    directions = (ledger_lib.UPLINK, ledger_lib.DOWNLINK)
    return {'total_bytes': np.array([self._ledger.total_bytes(d) for d in directions], np.int64)}

  def restore(self, saved: Mapping[str, np.ndarray]) -> None:
    """Restores the result of `save`; the logs must have been rewound to the same round."""
    up, down = saved['total_bytes']
    self._ledger = ledger_lib.Ledger({ledger_lib.UPLINK: int(up), ledger_lib.DOWNLINK: int(down)})

  def record(
    self, done: rounds.Round, evaluated: dict[str, float] | None
  ) -> collections.OrderedDict[str, Any]:
    """Writes one round and returns its row; cells without a measurement are None.

    If a metric is not a number, raises TypeError with its name and writes nothing. A metric that
    is NaN or infinite is written as `nan`, `inf` or `-inf`.
    """
    measured = _measured(done, evaluated, self._weight_names)
    spent = self._enter_messages(done)
    row = collections.OrderedDict.fromkeys(self._columns)
    excluded = sum(not bool(report['accepted']) for report in done.reports)
    row.update(
      round=done.number,
      **measured,
      uplink_bytes=spent[ledger_lib.UPLINK],
      downlink_bytes=spent[ledger_lib.DOWNLINK],
      cumulative_uplink_bytes=self._ledger.total_bytes(ledger_lib.UPLINK),
      cumulative_downlink_bytes=self._ledger.total_bytes(ledger_lib.DOWNLINK),
      round_seconds=round(done.seconds, 4),
      participants=len(done.client_ids) + len(done.absent),
      dropped_clients=excluded + len(done.absent),
    )
    self._write(row)
    return row

  def _enter_messages(self, done: rounds.Round) -> dict[str, int]:
    spent = {ledger_lib.UPLINK: 0, ledger_lib.DOWNLINK: 0}
    for client_id, report in zip(done.client_ids, done.reports, strict=True):
      up = {kind: int(bits) for kind, bits in report['uplink'].items()}
      down = {kind: int(bits) for kind, bits in report['downlink'].items()}
      for direction, bits, units in (
        (ledger_lib.UPLINK, up, int(report['official_units'])),
        (ledger_lib.DOWNLINK, down, 0),  # Of the papers, only FedPara's counts the downlink.
      ):
        spent[direction] += self._ledger.enter(done.number, client_id, direction, bits, units)
    return spent

  def _write(self, row: dict[str, Any]) -> None:
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, [*self._columns])
    if self._csv.is_empty:
      writer.writerow(self._columns)
    writer.writerow(row)
    header = ledger_lib.stream_header() if self._stream.is_empty else b''
    self._stream.append(header + self._ledger.drain())
    self._csv.append(text.getvalue().encode())
    with self._writing_events(), self._events.as_default(step=row['round']):
      for name, value in row.items():
        if value is not None and name != 'round':
          tf.summary.scalar(self._columns[name], value)
