from absl import app
import pandas as pd
import pytest

from experiments import compare
from experiments import recorder
from experiments.reports import table
from tests.experiments import binaries

FAST = ('--task=digits', '--rounds=2', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64')  # fmt: skip


def test_runs_methods_with_seeds_and_settings(tmp_path, capfd):
  binaries.run(
    'compare', *FAST, '--methods=fed_avg,lbgm,lbgm:lbgm_threshold=0.0', '--seeds=1,2',
    '--lbgm_threshold=1.0', f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv')
  assert tuple(rows.columns) == table.COLUMNS
  assert rows['method'].tolist() == ['fed_avg', 'lbgm', 'lbgm:lbgm_threshold=0.0'] * 2
  assert rows['seed'].tolist() == [1, 1, 1, 2, 2, 2]
  by_method = rows[rows['seed'] == 1].set_index('method')
  off = by_method.loc['lbgm:lbgm_threshold=0.0']
  # Switched off it is FedAvg, but for one byte of flags a message.
  assert off['final_accuracy'] == by_method.loc['fed_avg', 'final_accuracy']
  assert off['uplink_bytes'] == by_method.loc['fed_avg', 'uplink_bytes'] + 4
  assert (by_method['total_bytes'] == by_method['uplink_bytes'] + by_method['downlink_bytes']).all()
  assert by_method.loc['fed_avg', 'saving_percent'] == 0
  # All methods saw the same clients.
  clients = {
    label: pd.read_parquet(tmp_path / f'{label}-seed1' / 'ledger.parquet')['client'].tolist()
    for label in by_method.index
  }
  assert len({tuple(c) for c in clients.values()}) == 1
  assert '| fed_avg | 1 | 2 |' in (tmp_path / 'table.md').read_text()
  assert str(tmp_path / 'plots' / 'accuracy_vs_bytes.png') in capfd.readouterr().out


def test_an_interrupted_comparison_goes_on_to_the_same_table(tmp_path, monkeypatch, capfd):
  methods = '--methods=fed_avg,fed_avg:batch_size=32'
  arguments = (*FAST, '--rounds=3', '--checkpoint_every=2', methods)
  binaries.run('compare', *arguments, f'--output_dir={tmp_path / "whole"}')
  parts, record, calls = tmp_path / 'parts', recorder.Recorder.record, []

  def failing(self, done, evaluated):
    calls.append(done.number)
    if len(calls) in (2, 6):  # Before the checkpoint of the first run, and at the end of the other.
      raise OSError('power cut')
    return record(self, done, evaluated)

  with monkeypatch.context() as patch:
    patch.setattr(recorder.Recorder, 'record', failing)
    for _ in range(2):
      with pytest.raises(OSError, match='power cut'):
        binaries.run('compare', *arguments, f'--output_dir={parts}')
      assert not (parts / 'table.csv').exists()
  assert calls == [1, 2, 1, 2, 3, 1]
  capfd.readouterr()
  binaries.run('compare', *arguments, f'--output_dir={parts}')
  assert f'{parts / "fed_avg-seed1"} is complete' in capfd.readouterr().out
  whole, found = (
    pd.read_csv(tmp_path / name / 'table.csv').drop(columns='wall_seconds')
    for name in ('whole', 'parts')
  )
  pd.testing.assert_frame_equal(whole, found)
  assert found['simulated_seconds'].gt(0).all()


def test_runs_stay_in_the_folder_whatever_a_method_is_given():
  assert compare.run_name('lbgm:lbgm_threshold=0.4', 1) == 'lbgm:lbgm_threshold=0.4-seed1'
  name = compare.run_name('fed_avg:data_dir=../../<b>|x', 2)
  assert name == 'fed_avg:data_dir=..%2F..%2F%3Cb%3E%7Cx-seed2'
  assert compare.run_name('fed_avg:uplink=top_k(0.1, qsgd(7))', 1).startswith(
    'fed_avg:uplink=top_k(0.1, qsgd(7))-'
  )


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--methods=fed_avg,sgd'], "--methods: expected some of fed_avg, lbgm, .*, found 'sgd'"),
    (['--methods=fed_avg,fed_avg'], 'expected different methods'),
    (['--methods=fed_avg', '--lbgm_threshold=0.1'], 'does nothing under fed_avg'),
    (['--methods=fed_avg:lbgm_threshold=0.1'], 'lbgm_threshold does nothing under fed_avg'),
    (['--methods=lbgm:lbgm_threshold'], 'expected FLAG=VALUE'),
    (['--methods=lbgm:lbgm_threshold=2'], '--lbgm_threshold: .*2'),
    (['--methods=lbgm:seed=2'], "Expected a flag of a run, found 'seed'"),
    (['--seeds=1,x'], "--seeds: expected whole numbers by commas, found '1,x'"),
    (['--seed=3'], '--seed does nothing here'),
  ],
)
def test_refuses_bad_flags(tmp_path, arguments, message):
  with pytest.raises(app.UsageError, match=message):
    binaries.run('compare', *FAST, *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())
