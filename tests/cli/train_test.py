import json

from absl import flags
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.cli import binaries
from tff_lowrank import settings
from tff_lowrank.cli import run_flags
from tff_lowrank.runs import processes
from tff_lowrank.runs import recorder

FAST = ('--task=digits', '--rounds=2', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64')  # fmt: skip


def test_writes_the_run_folder(tmp_path):
  binaries.run('train', *FAST, '--method=lbgm', '--lbgm_threshold=0.9', f'--output_dir={tmp_path}')
  metrics = pd.read_csv(tmp_path / 'metrics.csv')
  assert tuple(metrics.columns[: len(recorder.COLUMNS)]) == recorder.COLUMNS
  assert 'scalar_fraction' in metrics and 'scalar_fraction_by_block/dense_1/bias' in metrics
  assert metrics['round'].tolist() == [1, 2]
  assert metrics['participants'].tolist() == [2, 2]
  # The first round: two clients, 4,810 floats each and four flags, rounded up to a byte.
  assert metrics['uplink_bytes'][0] == 2 * (4 * 4810 + 1)
  assert metrics['downlink_bytes'].tolist() == [2 * 4 * 4810] * 2
  assert metrics['cumulative_uplink_bytes'][1] == metrics['uplink_bytes'].sum()
  ledger = pd.read_parquet(tmp_path / 'ledger.parquet')
  assert len(ledger) == 2 * 2 * 2
  assert ledger['bytes'].sum() == metrics[['uplink_bytes', 'downlink_bytes']].to_numpy().sum()
  record = json.loads((tmp_path / 'run.json').read_text())
  assert record['status'] == 'completed'
  assert record['flags']['lbgm_threshold'] == 0.9
  assert record['versions']['tensorflow-federated'] == '0.87.0'
  for plot in ('accuracy_vs_bytes', 'accuracy_vs_round'):
    assert (tmp_path / 'plots' / f'{plot}.png').stat().st_size > 1000
  assert list((tmp_path / 'tensorboard').iterdir())


def test_same_command_same_numbers(tmp_path):
  columns = None
  for name in ('a', 'b'):
    binaries.run('train', *FAST, '--method=lbgm', f'--output_dir={tmp_path / name}')
    metrics = pd.read_csv(tmp_path / name / 'metrics.csv').drop(columns='round_seconds')
    columns = metrics if columns is None else columns
    pd.testing.assert_frame_equal(columns, metrics)


def test_the_rate_decays_after_the_first_round(tmp_path):
  losses = {}
  for decay in (1, 0.1):
    folder = tmp_path / str(decay)
    binaries.run('train', *FAST, f'--client_rate_decay={decay}', f'--output_dir={folder}')
    losses[decay] = pd.read_csv(folder / 'metrics.csv')['eval_loss']
    assert ('client_rate_decay' in json.loads((folder / 'run.json').read_text())['flags']) == (
      decay != 1
    )
  assert losses[1][0] == losses[0.1][0]
  # A tenth of the rate, so hardly less of the loss.
  assert losses[1][0] - losses[0.1][1] < 0.3 * (losses[1][0] - losses[1][1])


def test_evaluates_every_so_often_and_at_the_end(tmp_path):
  binaries.run('train', *FAST, '--rounds=3', '--eval_every=2', f'--output_dir={tmp_path}')
  evaluated = pd.read_csv(tmp_path / 'metrics.csv')['eval_accuracy'].notna()
  assert evaluated.tolist() == [False, True, True]


def test_failure_is_recorded(tmp_path):
  with pytest.raises(FileNotFoundError, match='lacks train-images'):
    binaries.run('train', '--task=mnist', f'--data_dir={tmp_path}', f'--output_dir={tmp_path}')
  record = json.loads((tmp_path / 'run.json').read_text())
  assert record['status'] == 'failed'
  assert 'FileNotFoundError' in record['error']


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--lbgm_threshold=0.3'], '--lbgm_threshold has no effect with fed_avg'),
    (['--method=lbgm', '--partition=shards:0'], 'partition: A partition must be'),
    (['--clients_per_round=5'], 'clients_per_round must be at most num_clients=4, found 5'),
    (['--server_optimizer=adam', '--server_momentum=0.9'], 'has no effect with server_optimizer'),
    (['--client_rate_decay=0'], 'client_rate_decay must be above 0, found 0'),
    (['--server_momentum=1'], 'server_momentum must be below 1'),
    (['--partition=natural'], 'partition: A partition must be'),
    (['--task=qmnist', '--partition=iid'], 'partition: qmnist has natural clients'),
    (['--server_epsilon=0.1'], 'server_epsilon=0.1 has no effect with server_optimizer=sgd'),
    (['--data_dir=x'], 'data_dir has no effect with task=digits'),
  ],
)
def test_refuses_flags_that_do_nothing_or_contradict(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('train', *FAST, *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  'argument', ['--lbgm_threshold=1.5', '--method=sgd', '--rounds=0', '--task=imagenet', '--seed=-1',
               '--client_learning_rate=-1']
)  # fmt: skip
def test_refuses_impossible_values(tmp_path, argument):
  refused = (flags.IllegalFlagValueError, settings.SettingError)
  with pytest.raises(refused, match=argument.split('=')[0].lstrip('-')):
    binaries.run('train', *FAST, argument, f'--output_dir={tmp_path}')


def test_other_server_optimizers(tmp_path):
  binaries.run(
    'train', *FAST, '--server_optimizer=adam', '--server_learning_rate=0.01',
    '--client_weighting=uniform', f'--output_dir={tmp_path}',
  )  # fmt: skip
  assert np.isfinite(pd.read_csv(tmp_path / 'metrics.csv')['train_loss']).all()


@pytest.mark.parametrize('name', ['adam', 'yogi'])
def test_second_moments_of_the_server_are_those_of_adaptive_federated_optimization(name):
  settings = [f'--server_optimizer={name}', '--server_learning_rate=0.3', '--server_epsilon=0.01']
  with binaries.no_flags_set():
    flags.FLAGS(['train', *FAST, *settings, '--output_dir=unused'])
    optimizer = processes.build_server_optimizer(run_flags.run_spec('fed_avg'))
  state = optimizer.initialize(tf.TensorSpec([], tf.float64))
  v = 1e-6 if name == 'yogi' else 0.0
  w = m = 0.0
  weight = tf.constant(0.0, tf.float64)
  for t, g in enumerate([0.5, -2.0, 0.25], start=1):
    state, weight = optimizer.next(state, weight, tf.constant(g, tf.float64))
    m = 0.9 * m + 0.1 * g
    v += 0.01 * (g**2 - v if name == 'adam' else np.sign(g**2 - v) * g**2)
    w -= 0.3 * np.sqrt(1 - 0.99**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 0.01)
    assert float(weight) == pytest.approx(w, rel=1e-5)
