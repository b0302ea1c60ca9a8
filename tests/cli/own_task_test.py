"""A task of a user's own function in every binary."""

import json
import sys
import textwrap

import pandas as pd
import pytest

from tests.cli import binaries

MODULE = """
  import numpy as np
  import tensorflow as tf
  from tff_lowrank import tasks

  def motion(num_people: int = 6, classes: int = 3):
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(classes, 16))

    def examples(count):
      y = rng.integers(0, classes, count)
      return centers[y] + 0.3 * rng.normal(size=(count, 16)), y

    def build_model():
      hidden = tf.keras.layers.Dense(32, 'relu')
      return tf.keras.Sequential([tf.keras.Input(16), hidden, tf.keras.layers.Dense(classes)])

    people = {f'person {i}': examples(30 + i) for i in range(num_people)}
    return tasks.from_client_data(people, examples(60), build_model, name='motion')
"""
FAST = ('--task=own_motion:motion', '--task_args=num_people=5', '--clients_per_round=3',
        '--rounds=3', '--batch_size=16')  # fmt: skip


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
  (tmp_path / 'own_motion.py').write_text(textwrap.dedent(MODULE))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', list(sys.path))
  yield tmp_path / 'own_motion.py'
  sys.modules.pop('own_motion', None)


def test_train_records_it_and_goes_on(tmp_path, module, caplog):
  run = f'--output_dir={tmp_path / "run"}'
  binaries.run('train', *FAST, '--method=lbgm', run)
  record = json.loads((tmp_path / 'run' / 'run.json').read_text())
  assert record['flags']['task'] == 'own_motion:motion'
  assert (
    record['flags']['task_args'] == 'num_people=5' and record['flags']['partition'] == 'natural'
  )
  assert record['sources']['task']['file'] == str(module)
  module.write_text(module.read_text() + '# Changed.\n')
  binaries.run('train', *FAST, '--method=lbgm', '--rounds=5', run)
  metrics = pd.read_csv(tmp_path / 'run' / 'metrics.csv')
  assert len(metrics) == 5 and metrics['eval_accuracy'].iloc[-1] > 0.8
  record = json.loads((tmp_path / 'run' / 'run.json').read_text())
  assert [change.split(' was ')[0] for change in record['changed']] == ['task sha256']
  assert 'task sha256 was' in caplog.text


@pytest.mark.parametrize('jobs', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compare_and_a_conversion(tmp_path, jobs):
  binaries.run('compare', *FAST, '--methods=fed_avg,fedpara:fedpara_gamma=0,apf',
               f'--jobs={jobs}', f'--output_dir={tmp_path / "out"}')  # fmt: skip
  table = pd.read_csv(tmp_path / 'out' / 'table.csv').set_index('method')
  assert table['uplink_bytes']['fedpara:fedpara_gamma=0'] < table['uplink_bytes']['fed_avg']


def test_tune(tmp_path):
  binaries.run('tune', *FAST, '--method=lbgm', '--trials=2', f'--output_dir={tmp_path / "t"}',
               '--search=lbgm_threshold=uniform:0:0.8')  # fmt: skip
  assert len(pd.read_csv(tmp_path / 't' / 'trials.csv')) == 2


def test_advise(tmp_path):
  binaries.run('advise', *FAST, f'--output_dir={tmp_path / "a"}')
  table = pd.read_csv(tmp_path / 'a' / 'advice.csv')
  assert {'fedpara', 'lbgm', 'apf'} <= set(table['method'])


def test_gradient_space(tmp_path):
  binaries.run('gradient_space', *FAST, f'--output_dir={tmp_path / "g"}')
  assert (tmp_path / 'g' / 'components.csv').exists()


def test_describe(tmp_path, capsys):
  arguments = ('--describe', *FAST[:2], f'--output_dir={tmp_path / "d"}')
  binaries.run('datasets', *arguments)
  assert '5 clients, 60 central test examples' in capsys.readouterr().out


@pytest.mark.parametrize(
  'flags, message',
  [
    ('--task=own_motion:nothing', "The module 'own_motion' has no 'nothing'"),
    ('--task=own_nothing:motion', "There is no module 'own_nothing'"),
    ('--task_args=people=5', "has no parameter 'people'"),
    ('--task_args=num_people', 'task_args must be NAME=VALUE'),
    ('--task_args=num_people=many', "is int, found 'many'"),
    ('--partition=iid', 'the partition must be `natural`'),
    ('--num_clients=9', '9'),
  ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, capsys, flags, message):
  arguments = (*FAST, '--clients_per_round=0', flags, f'--output_dir={tmp_path / "x"}')
  assert binaries.status('train', *arguments) == 2
  said = capsys.readouterr().err
  assert message in said and len(said.splitlines()) == 2
