"""Writes a run's numbers: metrics.csv, ledger.parquet and TensorBoard events."""

import collections
from collections.abc import Sequence
import csv
import pathlib
from typing import Any

import tensorflow as tf

from tff_lowrank import ledger as ledger_lib
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

# Where a method's own measurements are.
METHOD_METRICS = (('aggregator', 'codec'), ('finalizer', 'freezing'))


class Recorder:
  """Records rounds in a run folder. Use as a context manager: leaving it closes the files."""

  def __init__(self, folder: pathlib.Path, evaluated: Sequence[str] = ()):
    """Opens the files in `folder`.

    Args:
      folder: Exists.
      evaluated: Metrics that evaluations have beside those that `COLUMNS` has cells for; each
        gets the column `eval_` + its name after them.
    """
    columns = (*COLUMNS, *(f'eval_{name}' for name in evaluated))
    self._columns = tuple(dict.fromkeys(columns))
    self._folder = folder
    self._ledger = ledger_lib.Ledger()
    self._csv = open(folder / 'metrics.csv', 'w', newline='')
    self._writer = None
    self._events = tf.summary.create_file_writer(str(folder / 'tensorboard'))

  def __enter__(self) -> 'Recorder':
    return self

  def __exit__(self, *exception: Any) -> None:
    self._csv.close()
    self._events.close()
    self._ledger.write(str(self._folder / 'ledger.parquet'))

  def record(
    self, done: rounds.Round, evaluated: dict[str, float] | None
  ) -> collections.OrderedDict[str, Any]:
    """Writes one round and returns its row; cells of an evaluation not made are None."""
    spent = self._enter_messages(done)
    train = done.metrics['client_work']['train']
    row = collections.OrderedDict.fromkeys(self._columns)
    row.update(
      round=done.number,
      train_loss=float(train['loss']),
      train_accuracy=float(train['accuracy']),
      **{f'eval_{name}': value for name, value in (evaluated or {}).items()},
      uplink_bytes=spent[ledger_lib.UPLINK],
      downlink_bytes=spent[ledger_lib.DOWNLINK],
      cumulative_uplink_bytes=self._ledger.total_bytes(ledger_lib.UPLINK),
      cumulative_downlink_bytes=self._ledger.total_bytes(ledger_lib.DOWNLINK),
      round_seconds=round(done.seconds, 4),
      participants=len(done.client_ids),
      dropped_clients=sum(not bool(report['accepted']) for report in done.reports),
    )
    for part, name in METHOD_METRICS:
      row.update(metrics_lib.flatten(done.metrics[part].get(name, {})))
    self._write(row)
    return row

  def _enter_messages(self, done: rounds.Round) -> dict[str, int]:
    spent = {ledger_lib.UPLINK: 0, ledger_lib.DOWNLINK: 0}
    for client_id, report in zip(done.client_ids, done.reports, strict=True):
      up = {kind: int(bits) for kind, bits in report['uplink'].items()}
      down = {kind: int(bits) for kind, bits in report['downlink'].items()}
      for direction, bits, units in (
        (ledger_lib.UPLINK, up, int(report['official_units'])),
        (ledger_lib.DOWNLINK, down, 0),  # No paper's count has a downlink but FedPara's.
      ):
        spent[direction] += self._ledger.enter(done.number, client_id, direction, bits, units)
    return spent

  def _write(self, row: dict[str, Any]) -> None:
    if self._writer is None:
      self._writer = csv.DictWriter(self._csv, list(row))
      self._writer.writeheader()
    self._writer.writerow(row)
    self._csv.flush()
    with self._events.as_default(step=row['round']):
      for name, value in row.items():
        if value is not None and name != 'round':
          tf.summary.scalar(name, value)
