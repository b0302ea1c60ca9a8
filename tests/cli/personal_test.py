"""Personalised methods and model families in the binaries."""

import functools
import json

import numpy as np
import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank import models
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import digits

FAST = ('--task=digits', '--rounds=2', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64', '--partition=shards:3')  # fmt: skip
TESTED = (*FAST, '--client_test_fraction=0.2')

# Floats of the 64-64-10 network: two kernels and two biases.
KERNELS, BIASES = (64 * 64, 64 * 10), (64, 10)


def test_a_client_keeps_its_last_layer(tmp_path):
  binaries.run(
    'train', *TESTED, '--method=fed_per', '--evaluate_after_training', f'--output_dir={tmp_path}'
  )
  metrics = pd.read_csv(tmp_path / 'metrics.csv')
  assert metrics['uplink_bytes'].tolist() == [2 * 4 * (KERNELS[0] + BIASES[0])] * 2
  assert metrics['eval_personal_accuracy'].between(0, 1).all()
  assert metrics['eval_personal_accuracy_by_examples'].between(0, 1).all()
  assert metrics['eval_personal_accuracy_after_training'].between(0, 1).all()
  flags = json.loads((tmp_path / 'run.json').read_text())['flags']
  assert flags['client_test_fraction'] == 0.2
  assert flags['model_family'] == 'original' and 'fedpara_gamma' not in flags


def test_nothing_is_sent_by_clients_alone(tmp_path):
  binaries.run('train', *TESTED, '--method=local_only', f'--output_dir={tmp_path}')
  metrics = pd.read_csv(tmp_path / 'metrics.csv')
  assert metrics['uplink_bytes'].tolist() == [0, 0]
  assert metrics['downlink_bytes'][0] == 2 * 8  # The seed of the start.
  assert metrics['eval_accuracy'].nunique() == 1


def test_families_compared(tmp_path):
  binaries.run(
    'compare', *TESTED, '--methods=fed_avg,fedpara,fed_avg:model_family=low_rank,pfedpara,'
    'lbgm:model_family=fedpara:lbgm_threshold=0.0,fedpara:fedpara_tanh=true',
    '--fedpara_gamma=0.3', '--eval_every=2',
    f'--output_dir={tmp_path}',
  )  # fmt: skip
  rows = pd.read_csv(tmp_path / 'table.csv').set_index('method')
  up = rows['uplink_bytes']
  assert up['pfedpara'] < up['fedpara'] < up['fed_avg']
  assert up['fed_avg:model_family=low_rank'] == up['fedpara']
  recycled = 'lbgm:model_family=fedpara:lbgm_threshold=0.0'
  assert rows['final_accuracy'][recycled] == rows['final_accuracy']['fedpara']
  assert 0 <= up[recycled] - up['fedpara'] <= 2 * 2 * 2  # Flags.
  assert rows['final_personal_accuracy'].notna().all()
  flags = json.loads((tmp_path / 'pfedpara-seed1' / 'run.json').read_text())['flags']
  assert (flags['model_family'], flags['fedpara_gamma']) == ('pfedpara', 0.3)
  assert not {'fedpara_head_rank', 'fedpara_tanh'} & set(flags)
  with_tanh = 'fedpara:fedpara_tanh=true'
  assert up[with_tanh] == up['fedpara']
  losses = [
    pd.read_csv(tmp_path / f'{method}-seed1' / 'metrics.csv')['train_loss'][0]
    for method in ('fedpara', with_tanh)
  ]
  assert losses[0] != losses[1]


def test_no_personal_evaluation_by_default(tmp_path):
  binaries.run('train', *FAST, f'--output_dir={tmp_path}')
  metrics = pd.read_csv(tmp_path / 'metrics.csv')
  assert metrics['eval_personal_accuracy'].isna().all()
  assert 'eval_personal_loss' not in metrics


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--method=pfedpara'], 'as client_test_fraction=0.2'),
    (['--method=fedpara', '--model_family=low_rank'], 'contradicts method=fedpara'),
    (['--fedpara_gamma=0.3'], '--fedpara_gamma has no effect with --model_family=original'),
    (['--fedpara_head_rank=4'], '--fedpara_head_rank has no effect with --model_family=original'),
    (['--fedpara_tanh', '--model_family=low_rank'], 'fedpara_tanh has no effect with'),
    (['--evaluate_after_training'], 'as client_test_fraction=0.2'),
    (['--client_test_fraction=1'], 'client_test_fraction must be below 1'),
    (['--method=local_only', '--client_test_fraction=0.2', '--uplink=float16'],
     'uplink=float16 has no effect with method=local_only'),
  ],
)  # fmt: skip
def test_refuses_flags_that_do_nothing_or_contradict(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('train', *FAST, *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())


SMALL = arrays.Split(np.zeros([40, 1, 1, 64], np.uint8), np.arange(40, dtype=np.int32) % 2)


@pytest.mark.parametrize(
  'method, message',
  [
    (
      'fed_per',
      'finds no shared weights in the model',
    ),
    ('pfedpara', 'finds no personal weights in the model'),
  ],
)
def test_models_with_nothing_shared_or_nothing_personal_are_refused(
  tmp_path, monkeypatch, method, message
):
  build = functools.partial(models.build_mlp, hidden=())  # A layer that no factors make smaller.
  monkeypatch.setattr(
    models, 'build_mlp', lambda shape, **settings: build((1, 1, 64), num_classes=2, **settings)
  )
  monkeypatch.setattr(digits, 'load_arrays', lambda: arrays.Arrays(SMALL, SMALL))
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    # With a seed of its own, as runs of the same settings share their task (`runs/shared.py`).
    binaries.run('train', *TESTED, f'--method={method}', '--seed=97', f'--output_dir={tmp_path}')
