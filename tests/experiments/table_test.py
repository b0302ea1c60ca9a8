import json

import pandas as pd
import pytest

from experiments.reports import table
from tff_lowrank import ledger
from tff_lowrank.simulation import network


def write_run(folder, seed, up, down, accuracies, personal=None):
  folder.mkdir()
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
        eval_accuracy=accuracy,
        eval_personal_accuracy=personal,
        cumulative_uplink_bytes=book.total_bytes(ledger.UPLINK),
        cumulative_downlink_bytes=book.total_bytes(ledger.DOWNLINK),
      )
    )
  pd.DataFrame(rows).to_csv(folder / 'metrics.csv', index=False)
  book.write(folder / 'ledger.parquet')
  (folder / 'run.json').write_text(json.dumps(dict(flags=dict(seed=seed), wall_seconds=1.5)))
  return folder


def test_rows_by_hand(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f', 1, 3_000_000, 9_000_000, [0.5, 0.7, None])),
    ('lbgm', write_run(tmp_path / 'l', 1, 1_500_000, 9_000_000, [0.4, None, 0.6])),
    ('lbgm', write_run(tmp_path / 'm', 2, 1_500_000, 9_000_000, [0.1])),
  ]
  rows = table.build_table(runs, network.Network(downlink_mbps=8, uplink_mbps=8))
  assert rows['final_accuracy'].tolist() == [0.7, 0.6, 0.1]
  # Three rounds, and client b sends three times what a does.
  assert rows['uplink_bytes'].tolist() == [36_000_000, 18_000_000, 6_000_000]
  assert rows['downlink_bytes'].tolist() == [108_000_000, 108_000_000, 36_000_000]
  assert rows['saving_percent'].tolist()[:2] == [0, 12.5]
  assert pd.isna(rows['saving_percent'][2])  # No FedAvg with seed 2.
  # Client b: 27 MB down and 9 MB up at 1 MB/s, three times.
  assert rows['simulated_seconds'][0] == pytest.approx(3 * 36)
  assert rows['final_personal_accuracy'].isna().all()
  text = table.to_markdown(rows)
  assert text.splitlines()[1] == '|---' + '|---:' * 9 + '|'
  assert '| lbgm | 1 | 3 | 0.6000 | 18.000 | 108.000 | 126.000 | 12.5 % | 94.5 s | 1.5 s |' in text


def test_personal_accuracies_have_a_column(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f', 1, 3, 9, [0.5])),
    ('pfedpara', write_run(tmp_path / 'p', 1, 1, 3, [0.4, 0.4], personal=0.75)),
  ]
  rows = table.build_table(runs, network.Network())
  assert rows['final_personal_accuracy'][1] == 0.75
  header, _, first, second = table.to_markdown(rows).splitlines()
  assert header.startswith('| method | seed | rounds | accuracy | personal accuracy | up MB |')
  assert first.startswith('| fed_avg | 1 | 1 | 0.5000 |  | ')
  assert second.startswith('| pfedpara | 1 | 2 | 0.4000 | 0.7500 | ')
  assert header.count('|') == first.count('|') == second.count('|')


def test_a_cell_of_markdown_is_one_cell(tmp_path):
  label = 'fed_avg:data_dir=a|b\\\n| x'
  rows = table.build_table([(label, write_run(tmp_path / 'f', 1, 3, 9, [0.5]))], network.Network())
  last = table.to_markdown(rows).splitlines()[-1]
  assert last.startswith('| fed_avg:data_dir=a\\|b\\\\ \\| x | 1 | 1 | 0.5000 |')
  rows.to_csv(tmp_path / 'table.csv', index=False)
  assert pd.read_csv(tmp_path / 'table.csv')['method'].tolist() == [label]
