"""Tuning; most trials only pretend to train, so that what comes out is known."""

import json
import shlex

import numpy as np
import optuna
import pandas as pd
import pytest

from tests.cli import binaries
from tests.reports.run_folders import write_run
from tff_lowrank.reports import table
from tff_lowrank.runs import recorder
from tff_lowrank.runs import runner
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import stopping

FAST = ('--task=digits', '--rounds=4', '--num_clients=4', '--clients_per_round=2',
        '--batch_size=64')  # fmt: skip
SEARCH = '--search=client_learning_rate=log:0.01:1,client_epochs=choice:1|2'


def accuracy_of(spec, round_num):
  """Best at a rate of 0.1, better by the round, and a little by the seed."""
  distance = abs(spec.client_learning_rate - 0.1)
  return max(0.0, 0.9 - distance) * round_num / spec.rounds + 0.001 * spec.seed


@pytest.fixture
def pretended(monkeypatch):
  """Lets runs have the accuracies above and cost 100 bytes an epoch; lists what was run."""
  runs = []

  def train(spec, folder, label, saving, is_enough):
    runs.append((folder, spec))
    if not folder.exists():
      accuracies = [accuracy_of(spec, r + 1) for r in range(spec.rounds)]
      write_run(folder, spec.seed, 100 * spec.client_epochs, 0, accuracies)
    for r in range(spec.rounds):
      if is_enough({'round': r + 1, 'eval_accuracy': accuracy_of(spec, r + 1)}):
        if r + 1 < spec.rounds:
          raise stopping.Stopped(None, 'Stopped.')
    return True

  monkeypatch.setattr(runner, 'train', train)
  return runs


def tune(folder, *arguments):
  binaries.run('tune', *FAST, *arguments, f'--output_dir={folder}')
  return pd.read_csv(folder / 'trials.csv')


def test_means_over_seeds_and_the_front(tmp_path, pretended, capsys):
  trials = tune(tmp_path, SEARCH, '--trials=8', '--seeds=1,3')
  assert len(trials) == 8 and (trials['state'] == 'complete').all()
  assert trials['client_learning_rate'].between(0.01, 1).all()
  assert trials['client_learning_rate'].nunique() == 8
  # Four rounds, in which b sends three times what a does.
  assert (trials['total_bytes'] == 4 * 4 * 100 * trials['client_epochs']).all()
  expected = (0.9 - (trials['client_learning_rate'] - 0.1).abs()).clip(lower=0) + 0.002
  assert trials['final_accuracy'].tolist() == pytest.approx(expected.tolist())
  # The best of those with one epoch, and one of two epochs only if it is better still.
  best = pd.read_csv(tmp_path / 'pareto.csv')
  by_epochs = trials.groupby('client_epochs')['final_accuracy'].max()
  expected = [by_epochs[1]] + [by_epochs[2]] * (by_epochs[2] > by_epochs[1])
  assert best['final_accuracy'].tolist() == pytest.approx(expected)
  assert (tmp_path / 'trial-0007' / 'seed3' / 'run.json').exists()
  printed = capsys.readouterr().out
  assert 'Trial 7: accuracy' in printed
  for name in ('plots/trials.png', 'report.html'):
    assert f'Wrote {tmp_path / name}' in printed and (tmp_path / name).exists()


def test_the_commands_train_the_trials_again(tmp_path, pretended):
  tune(tmp_path, SEARCH, '--trials=4', '--seeds=1,2', '--eval_every=2')
  specs = {folder.parent.name: spec for folder, spec in pretended if folder.name == 'seed2'}
  best = pd.read_csv(tmp_path / 'pareto.csv')
  text = (tmp_path / 'pareto.md').read_text()
  pretended.clear()
  for trial, command in zip(best['trial'], best['command'], strict=True):
    assert command in text
    words = shlex.split(command)
    assert words[:2] == ['tff-lowrank', 'compare']
    again = words[2:]
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(
        runner, 'train', lambda spec, folder, *_: pretended.append((folder, spec)) or 1 / 0
      )
      with pytest.raises(ZeroDivisionError):
        binaries.run('compare', *[a if 'seeds' not in a else '--seeds=2' for a in again])
    folder, spec = pretended[-1]
    assert spec == specs[f'trial-{trial:04}']
    assert str(folder).startswith(str(tmp_path / 'again' / f'trial-{trial:04}'))


def test_an_interrupted_study_goes_on_to_the_same_trials(tmp_path, pretended, monkeypatch):
  whole = tune(tmp_path / 'whole', SEARCH, '--trials=12')
  train, calls = runner.train, []

  def interrupted(*arguments):
    calls.append(arguments)
    if len(calls) in (3, 11):
      raise KeyboardInterrupt
    return train(*arguments)

  monkeypatch.setattr(runner, 'train', interrupted)
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      tune(tmp_path / 'parts', SEARCH, '--trials=11')
  tune(tmp_path / 'parts', SEARCH, '--trials=11')
  parts = tune(tmp_path / 'parts', SEARCH, '--trials=12')  # One more.
  pd.testing.assert_frame_equal(parts, whole)
  made = len(calls)
  tune(tmp_path / 'parts', SEARCH, '--trials=12')  # Nothing to do.
  assert len(calls) == made == 14
  # Interrupted trials went on in their folders.
  assert sorted(p.name for p in (tmp_path / 'parts').glob('trial-*')) == [
    f'trial-{i:04}' for i in range(12)
  ]


CUT_OFF = [b'', b'round,train_lo', b'round,eval_accuracy\r\n1,0.']


@pytest.mark.each_once
@pytest.mark.parametrize('prune', [(), ('--prune',)], ids=['', 'prune'])
@pytest.mark.parametrize('left', CUT_OFF, ids=range(len(CUT_OFF)))
def test_a_trial_killed_in_its_first_round_is_run_again(tmp_path, monkeypatch, left, prune):
  arguments = (SEARCH, '--objectives=accuracy', '--trials=2', *prune)
  whole = tune(tmp_path / 'whole', *arguments)

  def killed(self, done, evaluated):
    self._csv.append(left)
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(recorder.Recorder, 'record', killed)
    with pytest.raises(KeyboardInterrupt):
      tune(tmp_path / 'parts', *arguments)
  assert (tmp_path / 'parts' / 'trial-0000' / 'seed1' / 'metrics.csv').read_bytes() == left
  pd.testing.assert_frame_equal(tune(tmp_path / 'parts', *arguments), whole)


def test_a_trial_whose_files_were_damaged_is_not_settled(tmp_path, monkeypatch):
  arguments = (SEARCH, '--objectives=accuracy', '--trials=1', '--seeds=1,2', '--prune',
               '--checkpoint_every=1', '--keep_checkpoints=1')  # fmt: skip
  whole, record, seen = tune(tmp_path / 'whole', *arguments), recorder.Recorder.record, []

  def killed(self, done, evaluated):
    seen.append(done.number)
    if len(seen) == 7:
      raise KeyboardInterrupt
    return record(self, done, evaluated)

  with monkeypatch.context() as patch:
    patch.setattr(recorder.Recorder, 'record', killed)
    with pytest.raises(KeyboardInterrupt):
      tune(tmp_path / 'parts', *arguments)
  for name in ('seed1', 'seed2'):  # The one is complete, the other was cut off.
    path = tmp_path / 'parts' / 'trial-0000' / name / 'metrics.csv'
    content = path.read_bytes()
    path.write_bytes(content.replace(b'1', b'2'))
    with pytest.raises(
      manifest.DamagedError, match='does not start with the content that was written'
    ):
      tune(tmp_path / 'parts', *arguments)
    path.write_bytes(content)
  pd.testing.assert_frame_equal(tune(tmp_path / 'parts', *arguments), whole)


def test_pruning_ends_what_falls_behind(tmp_path, pretended):
  arguments = ('--search=client_learning_rate=uniform:0.1:1', '--objectives=accuracy', '--prune',
               '--trials=12', '--seeds=1,2')  # fmt: skip
  trials = tune(tmp_path, *arguments)
  assert set(trials['state']) == {'complete', 'pruned'}
  # Five trials may run; then one ends in the first round if it is below the median of those so far
  # that came to their end. Accuracies are in the same order in all rounds.
  accuracy, complete, expected = 1 - (trials['client_learning_rate'] - 0.1), [], []
  for value in accuracy:
    expected.append('pruned' if len(complete) >= 5 and value < np.median(complete) else 'complete')
    if expected[-1] == 'complete':
      complete.append(value)
  assert trials['state'].tolist() == expected
  pruned = trials[trials['state'] == 'pruned']
  assert pruned['final_accuracy'].isna().all()
  assert not (tmp_path / f'trial-{pruned["trial"].iloc[0]:04}' / 'seed2').exists()
  best = pd.read_csv(tmp_path / 'pareto.csv')
  assert best['client_learning_rate'].tolist() == [trials['client_learning_rate'].min()]


def test_a_pruned_run_is_saved_and_can_go_on(tmp_path, monkeypatch):
  # A real run: ended after its second round, then trained to its end.
  monkeypatch.setattr(optuna.Trial, 'should_prune', lambda trial: len(trial_steps(trial)) == 2)

  def trial_steps(trial):
    return trial.study.trials[trial.number].intermediate_values

  search = ('--search=client_learning_rate=uniform:0.1:0.2', '--objectives=accuracy', '--prune')
  trials = tune(tmp_path, *search, '--trials=1')
  assert trials['state'].tolist() == ['pruned']
  run = tmp_path / 'trial-0000' / 'seed1'
  assert json.loads((run / 'run.json').read_text())['status'] == 'stopped'
  assert len(pd.read_csv(run / 'metrics.csv')) == 2
  rate = trials['client_learning_rate'][0]
  binaries.run('train', *FAST, f'--client_learning_rate={rate}', f'--output_dir={run}')
  assert len(pd.read_csv(run / 'metrics.csv')) == 4
  assert 'pareto.csv' in {path.name for path in tmp_path.iterdir()}


def test_settings_that_do_not_go_together_are_a_failed_trial(tmp_path, pretended):
  search = '--search=server_momentum=choice:0.5|1,client_learning_rate=uniform:0.1:1'
  trials = tune(tmp_path, search, '--trials=8')
  failed = trials[trials['state'] == 'fail']
  assert set(failed['server_momentum']) == {1}
  assert failed['reason'].str.contains('server_momentum must be below 1').all()
  assert (trials.loc[trials['server_momentum'] == 0.5, 'state'] == 'complete').all()


def test_settings_that_do_not_go_with_the_data_are_a_failed_trial(tmp_path):
  arguments = ('--task=digits', '--rounds=1', '--clients_per_round=2', '--trials=3')
  search = '--search=num_clients=choice:6000|7000'
  binaries.run('tune', *arguments, search, f'--output_dir={tmp_path}')
  trials = pd.read_csv(tmp_path / 'trials.csv')
  assert trials['state'].tolist() == ['fail'] * 3
  assert trials['reason'].str.contains('`num_clients` must be at most').all()


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((), '--search: expected the flags to search over, found none'),
    ((SEARCH, '--prune'), 'Optuna can prune only with one objective.*--objectives=accuracy'),
    ((SEARCH, '--seed=3'), '--seed has no effect here; use --seeds'),
    ((SEARCH, '--seeds=1,1'), 'expected different seeds'),
    ((SEARCH, '--lbgm_threshold=0.5'), '--lbgm_threshold has no effect with fed_avg'),
    ((SEARCH, '--client_epochs=1'), '--client_epochs is given and also searched over'),
    ((SEARCH, '--server_momentum=1'), 'server_momentum must be below 1'),
    ((SEARCH, '--fedpara_gamma=0.3'), '--fedpara_gamma has no effect with'),
  ],
)
def test_refuses_bad_flags(tmp_path, arguments, message):
  with pytest.raises(binaries.USAGE_ERRORS, match=message):
    binaries.run('tune', *FAST, *arguments, f'--output_dir={tmp_path}')
  assert not list(tmp_path.iterdir())


def test_another_study_s_folder_is_refused(tmp_path, pretended):
  tune(tmp_path, SEARCH, '--trials=1')
  with pytest.raises(ValueError, match='another study: --seeds is .1. there and .1, 2. here'):
    tune(tmp_path, SEARCH, '--trials=2', '--seeds=1,2')
  with pytest.raises(ValueError, match='--server_momentum is 0.0 there and 0.9 here'):
    tune(tmp_path, SEARCH, '--trials=2', '--server_momentum=0.9')
  assert len(pd.read_csv(tmp_path / 'trials.csv')) == 1


def test_markdown_of_the_front(tmp_path, pretended):
  tune(tmp_path, SEARCH, '--trials=2')
  lines = (tmp_path / 'pareto.md').read_text().splitlines()
  header = ['trial', 'client_learning_rate', 'client_epochs', 'final_accuracy', 'total_bytes']
  assert lines[:2] == table.markdown(pd.DataFrame(columns=header)).splitlines()
