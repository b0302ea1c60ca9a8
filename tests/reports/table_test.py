import pandas as pd
import pytest

from tests.reports.run_folders import write_run
from tff_lowrank.reports import curves
from tff_lowrank.reports import table
from tff_lowrank.simulation import network


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
  assert rows['byte_ratio'].tolist()[:2] == [1, 1.143]  # 144 to 126.
  assert pd.isna(rows['saving_percent'][2])  # No FedAvg with seed 2.
  assert pd.isna(rows['byte_ratio'][2])
  # Client b: 27 MB down and 9 MB up at 1 MB/s, three times.
  assert rows['simulated_seconds'][0] == pytest.approx(3 * 36)
  assert rows['final_personal_accuracy'].isna().all()
  text = table.to_markdown(rows)
  assert text.splitlines()[1] == '|---' + '|---:' * 10 + '|'
  assert (
    '| lbgm | 1 | 3 | 0.6000 | 18.000 | 108.000 | 126.000 | 12.5 % | 1.1 x | 94.5 s | 1.5 s |'
    in text
  )


def test_personal_accuracies_have_a_column(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f', 1, 3, 9, [0.5])),
    ('pfedpara', write_run(tmp_path / 'p', 1, 1, 3, [0.4, 0.4], personal=0.75)),
  ]
  rows = table.build_table(runs, network.Network())
  assert rows['final_personal_accuracy'][1] == 0.75
  header, _, first, second = table.to_markdown(rows).splitlines()
  assert header.startswith('| method | seed | rounds | accuracy | personal accuracy | uplink MB |')
  assert first.startswith('| fed_avg | 1 | 1 | 0.5000 |  | ')
  assert second.startswith('| pfedpara | 1 | 2 | 0.4000 | 0.7500 | ')
  assert header.count('|') == first.count('|') == second.count('|')


def test_methods_with_personal_models_are_compared_by_them(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f', 1, 3, 9, [0.9, 0.9], personal=0.7)),
    ('fed_per', write_run(tmp_path / 'p', 1, 2, 8, [0.1, 0.1], personal=0.8)),
    ('worse', write_run(tmp_path / 'w', 1, 2, 9, [0.8, 0.8], personal=0.6)),
  ]
  rows = table.build_table(runs, network.Network())
  assert rows['compared_accuracy'].tolist() == [0.7, 0.8, 0.6]
  assert table.build_summary(rows)['pareto'].tolist() == ['no', 'yes', 'no']
  rows = table.build_table(
    [*runs, ('lbgm', write_run(tmp_path / 'l', 1, 2, 9, [0.8, 0.8]))], network.Network()
  )
  assert rows['compared_accuracy'].tolist() == [0.9, 0.1, 0.8, 0.8]


def test_dropped_clients_have_a_column_if_there_are_any(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f', 1, 3, 9, [0.5])),
    ('apf', write_run(tmp_path / 'a', 1, 3, 9, [0.5, 0.5], dropped=2)),
  ]
  rows = table.build_table(runs, network.Network())
  assert rows['dropped_clients'].tolist() == [0, 4]
  assert ' | dropped | ' in table.to_markdown(rows).splitlines()[0]
  assert 'dropped' not in table.to_markdown(rows[:1])


def test_summary_by_hand(tmp_path):
  runs = [
    ('fed_avg', write_run(tmp_path / 'f1', 1, 1_000_000, 1_000_000, [0.90])),
    ('lbgm', write_run(tmp_path / 'l1', 1, 500_000, 1_000_000, [0.80])),
    ('worse', write_run(tmp_path / 'w1', 1, 500_000, 1_000_000, [0.70])),
    ('fed_avg', write_run(tmp_path / 'f2', 2, 1_000_000, 1_000_000, [0.94])),
    ('lbgm', write_run(tmp_path / 'l2', 2, 250_000, 1_000_000, [0.80])),
    ('fed_avg', write_run(tmp_path / 'f3', 3, 1_000_000, 1_000_000, [0.92])),
    ('lbgm', write_run(tmp_path / 'l3', 3, 500_000, 1_000_000, [None])),
  ]
  rows = table.build_table(runs, network.Network())
  summary = table.build_summary(rows).set_index('method')
  assert summary.index.tolist() == ['fed_avg', 'lbgm', 'worse']
  assert summary['seeds'].tolist() == [3, 3, 1]
  fed_avg = summary.loc['fed_avg']
  assert fed_avg['final_accuracy'] == pytest.approx(0.92)
  # Standard deviation 0.02, and Student's t for two degrees of freedom is 4.303.
  assert fed_avg['final_accuracy_ci95'] == pytest.approx(4.303 * 0.02 / 3**0.5, rel=1e-3)
  assert fed_avg['total_bytes'] == 8_000_000 and fed_avg['total_bytes_ci95'] == 0
  # A seed of `lbgm` has no accuracy; its bytes are 6, 5 and 6 MB.
  assert pd.isna(summary.loc['lbgm', 'final_accuracy'])
  assert pd.isna(summary.loc['lbgm', 'final_accuracy_ci95'])
  assert summary.loc['lbgm', 'total_bytes'] == pytest.approx(17e6 / 3)
  assert pd.isna(summary.loc['worse', 'final_accuracy_ci95'])
  assert summary['pareto'].tolist() == ['yes', 'no', 'yes']
  lines = table.to_markdown(summary.reset_index()).splitlines()
  assert lines[0].startswith('| method | seeds | accuracy | uplink MB |')
  assert lines[2].startswith('| fed_avg | 3 | 0.9200 ± 0.0497 | 4.000 ± 0.000 |')
  assert lines[4].startswith('| worse | 1 | 0.7000 | 2.000 |')
  assert lines[4].endswith('| yes |')


@pytest.mark.parametrize(
  'spent, amount, rounds, accuracies',
  [
    ('rounds', 2, [2, 2], [0.6, 0.4]),
    # Rounds of `full` cost 8 MB, of `half` 6 MB.
    ('bytes', 18e6, [2, 3], [0.6, 0.5]),
    ('bytes', 7.9e6, [None, 1], [None, 0.3]),
    # Client b takes 6 s and 4.5 s for 8 Mbit in a round.
    ('seconds', 12, [2, 2], [0.6, 0.4]),
    ('seconds', 1000, [3, 3], [0.7, 0.5]),
  ],
)
def test_compared_at_a_budget(tmp_path, spent, amount, rounds, accuracies):
  runs = [
    ('full', write_run(tmp_path / 'f', 1, 1_000_000, 1_000_000, [0.5, 0.6, 0.7])),
    ('half', write_run(tmp_path / 'h', 1, 500_000, 1_000_000, [0.3, 0.4, 0.5])),
  ]
  link = network.Network(downlink_mbps=8, uplink_mbps=8)
  rows = table.build_table(runs, link, curves.Budget(spent, amount))
  assert [None if pd.isna(r) else r for r in rows['compared_round']] == rounds
  assert [None if pd.isna(a) else a for a in rows['compared_accuracy']] == accuracies
  assert rows['final_accuracy'].tolist() == [0.7, 0.5]


def test_a_cell_of_markdown_is_one_cell(tmp_path):
  label = 'fed_avg:data_dir=a|b\\\n| x'
  rows = table.build_table([(label, write_run(tmp_path / 'f', 1, 3, 9, [0.5]))], network.Network())
  last = table.to_markdown(rows).splitlines()[-1]
  assert last.startswith('| fed_avg:data_dir=a\\|b\\\\ \\| x | 1 | 1 | 0.5000 |')
  rows.to_csv(tmp_path / 'table.csv', index=False)
  assert pd.read_csv(tmp_path / 'table.csv')['method'].tolist() == [label]
