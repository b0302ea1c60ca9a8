"""The study of gradient spaces through its binary."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.cli import binaries
from tff_lowrank.reports import gradient_plots
from tff_lowrank.runs import recording
from tff_lowrank.simulation import manifest

FAST = ('--task=digits', '--batch_size=64')
NAMES = ('dense/kernel', 'dense/bias', 'dense_1/kernel', 'dense_1/bias')
FEDERATED = (*FAST, '--num_clients=4', '--partition=shards:3')


def run(folder, *arguments):
  binaries.run('gradient_space', *arguments, f'--output_dir={folder}')
  return pd.read_csv(folder / 'components.csv')


def test_central(tmp_path):
  table = run(tmp_path, *FAST, '--setting=central', '--rounds=4')
  assert set(table['history']) == {'mean'}
  assert set(table['tensor']) == {'model', *NAMES}
  assert set(table['momentum']) == {0.0, 0.9}
  assert table['round'].tolist() == table['gradients'].tolist()
  assert (table['n95'] <= table['n99']).all() and (table['n99'] <= table['gradients']).all()
  metrics = pd.read_csv(tmp_path / 'metrics.csv')
  assert metrics['round'].tolist() == [1, 2, 3, 4]
  assert metrics['eval_accuracy'].iloc[-1] > 0.5
  assert json.loads((tmp_path / 'run.json').read_text())['status'] == 'completed'
  for name in ('components', 'overlaps'):
    assert (tmp_path / 'plots' / f'{name}.png').stat().st_size > 1000


@pytest.mark.parametrize('binary', ['gradient_space', 'advise'])
def test_refuses_the_folder_of_a_run(tmp_path, binary):
  arguments = (*FEDERATED, '--clients_per_round=0', '--rounds=1', f'--output_dir={tmp_path}')
  binaries.run('train', *arguments)
  before = {path: path.read_bytes() for path in tmp_path.rglob('*.*') if path.is_file()}
  with pytest.raises(manifest.MismatchError, match='contains another run'):
    binaries.run(binary, *arguments)
  assert {path: path.read_bytes() for path in before} == before


def test_the_mean_of_a_round_is_how_the_model_changed(tmp_path, monkeypatch):
  rounds = []
  record = recording.record

  def spy(spec, task, on_round):
    record(spec, task, lambda done, measured: (rounds.append(done), on_round(done, measured)))

  monkeypatch.setattr(recording, 'record', spy)
  arguments = ('--rounds=5', '--clients_per_round=2', '--watched_clients=3')
  table = run(tmp_path, *FEDERATED, *arguments)
  assert [len(done.updates) for done in rounds] == [2] * 5
  with np.load(tmp_path / gradient_plots.FILE) as data:
    names = data['names'].tolist()
    assert names[0] == 'mean' and set(names[1:]) <= {'client_0', 'client_1', 'client_2'}
    change = [np.ravel(done.before[0] - done.after[0]) for done in rounds]
    np.testing.assert_allclose(data['gram_0'][0], np.inner(change, change), rtol=1e-3)
    # A client's gradients are its own updates, in the rounds that it took part in.
    for i, name in enumerate(names[1:], start=1):
      own = [np.ravel(done.updates[name][2]) for done in rounds if name in done.updates]
      assert data[f'rounds_{i}'].tolist() == [r.number for r in rounds if name in r.updates]
      np.testing.assert_allclose(data[f'gram_{i}'][2], np.inner(own, own), rtol=1e-4)
  last = table[(table['history'] == 'mean') & (table['tensor'] == 'model')].iloc[-1]
  assert last['gradients'] == 5
  shown = gradient_plots.to_markdown(tmp_path).splitlines()
  assert len(shown) == 2 + 2 * len(names)
  for name in ('components', 'clients', 'overlaps', 'overlaps_client'):
    assert (tmp_path / 'plots' / f'{name}.png').stat().st_size > 1000


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--setting=central', '--num_clients=3'], '--num_clients has no effect with --setting=cen'),
    (['--uplink=top_k(0.1)'], '--uplink has no effect here'),
    (['--lbgm_threshold=0.3'], '--lbgm_threshold has no effect with fed_avg'),
    (['--fedpara_gamma=0.3'], '--fedpara_gamma has no effect with --model_family=original'),
  ],
)
def test_refuses_flags_that_do_nothing(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    run(tmp_path / 'x', *FAST, *arguments)
  assert not (tmp_path / 'x').exists()
