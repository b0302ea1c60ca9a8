"""Run folders written by hand, so that reports can be tested without training."""

import json

import pandas as pd

from tff_lowrank import ledger
from tff_lowrank.reports import run_files


def write_run(
  folder, seed, up, down, accuracies, personal=None, dropped=0, metric=None, clients=None,
  columns=None, **flags,
):  # fmt: skip
  """Writes a run of two clients, a and b, of which b sends and is sent three times what a is.

  Args:
    folder: Where to; made.
    seed: The run's.
    up: Bytes that a sends in a round.
    down: Bytes that it is sent.
    accuracies: Of each round's evaluation; None if there was none.
    personal: Personal accuracy of all evaluations, or None.
    dropped: Clients that are dropped in each round.
    metric: What run.json says that the accuracy is, or None.
    clients: Of each round the accuracies of its clients, or None.
    columns: More columns of metrics.csv.
    **flags: More of the run's settings.
  """
  folder.mkdir(parents=True)
  book = ledger.Ledger()
  rows = []
  for r, accuracy in enumerate(accuracies, start=1):
    for client, scale in (('a', 1), ('b', 3)):
      for direction, size in ((ledger.UPLINK, up), (ledger.DOWNLINK, down)):
        bits = {kind: 0 for kind in ledger.KINDS} | dict(payload=8 * scale * size)
        book.enter(r, client, direction, bits, 0)
    rows.append(
      dict(
        round=r,
        train_loss=1 / r,
        eval_loss=2 / r,
        eval_accuracy=accuracy,
        eval_personal_accuracy=personal,
        uplink_bytes=4 * up,
        downlink_bytes=4 * down,
        round_seconds=0.5,
        dropped_clients=dropped,
        cumulative_uplink_bytes=book.total_bytes(ledger.UPLINK),
        cumulative_downlink_bytes=book.total_bytes(ledger.DOWNLINK),
      )
    )
  pd.DataFrame(rows).assign(**(columns or {})).to_csv(folder / 'metrics.csv', index=False)
  book.write(folder / 'ledger.parquet')
  record = dict(
    flags=dict(method='fed_avg', seed=seed, **flags),
    versions=dict(python='3.11'),
    git=dict(commit='0123abc', dirty=False),
    devices=['/device:CPU:0'],
    started='2026-01-02T03:04:05+00:00',
    method=dict(name='fed_avg', is_baseline=True, is_personal=False),
    status='completed',
    wall_seconds=1.5,
  )
  if metric is not None:
    record['metric'] = metric
  if clients is not None:
    pd.DataFrame(
      [
        dict(round=r, client=f'c{i}', loss=1 - accuracy, accuracy=accuracy, examples=10)
        for r, found in enumerate(clients, start=1)
        for i, accuracy in enumerate(found)
      ]
    ).to_parquet(folder / run_files.CLIENTS, index=False)
  (folder / 'run.json').write_text(json.dumps(record))
  run_files.write_sums(folder)
  return folder
