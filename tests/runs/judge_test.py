import math

import numpy as np
import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank.runs import judge
from tff_lowrank.runs import recorder

NAN = math.nan


def seen(accuracies, method='fed_avg', **given):
  """A judge that has seen evaluations of these accuracies, and which of them were the best yet."""
  spec = runs.spec.make(method, given)
  found = judge.Judge(spec)
  rows = [{'round': r, found.column: a} for r, a in enumerate(accuracies, start=1)]
  return found, [found.see(row) for row in rows]


@pytest.mark.parametrize(
  'accuracies, best, best_round',
  [
    ([], [], 0),
    ([None, None], [False, False], 0),
    ([0.0, 0.0], [True, False], 1),
    ([0.2, 0.5, 0.5, 0.4], [True, True, False, False], 2),
    ([NAN, 0.1, NAN, None, 0.2], [False, True, False, False, True], 5),
    ([np.float32(0.3), np.float64(NAN)], [True, False], 1),
  ],
)
def test_the_best_is_the_first_of_the_highest(accuracies, best, best_round):
  found, were_best = seen(accuracies)
  assert were_best == best and found.best_round == best_round


@pytest.mark.parametrize(
  'accuracies, reason',
  [
    ([0.4], None),
    ([0.5], 'its accuracy, 0.5000, is at least stop_at_accuracy=0.5'),
    ([0.6, None], 'its accuracy, 0.6000, is at least stop_at_accuracy=0.5'),
    ([None], None),
    ([NAN], None),
  ],
)
def test_stops_at_an_accuracy(accuracies, reason):
  assert seen(accuracies, stop_at_accuracy=0.5)[0].reason_to_stop() == reason


@pytest.mark.parametrize(
  'accuracies, is_stopped',
  [
    ([0.1, 0.1], False),
    ([0.1, 0.1, 0.1], True),
    ([0.1, None, None, 0.1], False),
    ([0.3, 0.2, 0.4, 0.1], False),
    ([0.3, 0.2, 0.4, 0.1, 0.3], True),
    ([0.1, NAN, NAN], True),  # A model that diverged gets no better.
    ([NAN, NAN], True),
    ([None, None], False),
  ],
)
def test_loses_patience(accuracies, is_stopped):
  found, _ = seen(accuracies, patience=2)
  assert (found.reason_to_stop() is not None) == is_stopped


def test_rows_that_were_not_evaluated_are_nan_in_a_file():
  accuracies = [NAN, 0.1, NAN, 0.1, NAN, NAN]
  assert seen(accuracies[:5], patience=2, eval_every=2)[0].reason_to_stop() is None
  found, _ = seen(accuracies, patience=2, eval_every=2)
  assert found.reason_to_stop() == 'none of the last 2 evaluations was better than that of round 2'
  found, _ = seen([NAN, NAN], patience=2)
  assert found.reason_to_stop() == 'the accuracy of the first 2 evaluations was NaN'


def test_personal_models_are_judged_by_their_own_accuracy():
  found, _ = seen([], 'fed_per', client_test_fraction=0.2)
  assert found.column == 'eval_personal_accuracy'
  assert seen([])[0].column == 'eval_accuracy'


ENDS = dict(small.FAST, rounds=12, client_learning_rate=1.0)
SAVING = runs.Saving(checkpoint_every=2, keep_best=True)


def train(folder, **given):
  return runs.train('digits', 'lbgm', folder, saving=SAVING, **ENDS | given)


@pytest.fixture(scope='module')
def impatient(tmp_path_factory):
  """A run that ends for want of patience, after its best round."""
  return train(tmp_path_factory.mktemp('impatient'), patience=2)


def test_a_run_without_patience_left_is_complete(impatient, capsys):
  record, accuracies = impatient.record, impatient.metrics['eval_accuracy']
  assert record['status'] == 'completed' and impatient.report.exists()
  assert record['ended_early'].startswith('none of the last 2 evaluations was better than that of')
  assert len(accuracies) < ENDS['rounds']
  best = accuracies.idxmax()
  assert record['best_round'] == best + 1 == len(accuracies) - 2
  assert train(impatient.folder, patience=2).record == record
  assert 'is finished' in capsys.readouterr().out


def test_the_best_model_is_kept(impatient):
  task = runs.run.tasks.build('digits', num_clients=4, seed=1)
  accuracies = impatient.metrics['eval_accuracy']
  for name, expected in (('best', accuracies.max()), ('model', accuracies.iloc[-1])):
    assert small.accuracy(impatient.load_model(name), task) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize('killed_in', [1, 4, 'last'])
def test_it_ends_alike_after_it_was_killed(tmp_path, monkeypatch, impatient, killed_in):
  number = len(impatient.metrics) if killed_in == 'last' else killed_in
  record = recorder.Recorder.record

  def failing(self, done, evaluated):
    row = record(self, done, evaluated)
    if done.number == number:
      raise RuntimeError('power cut')
    return row

  with monkeypatch.context() as patch, pytest.raises(RuntimeError, match='power cut'):
    patch.setattr(recorder.Recorder, 'record', failing)
    train(tmp_path, patience=2)
  found = train(tmp_path, patience=2)
  small.assert_same_numbers(tmp_path, impatient.folder)
  for fact in ('status', 'ended_early', 'best_round'):
    assert found.record[fact] == impatient.record[fact]
  a, b = (run.load_model('best').get_weights() for run in (found, impatient))
  for one, other in zip(a, b, strict=True):
    np.testing.assert_array_equal(one, other)


def test_more_rounds_do_not_bring_back_patience(tmp_path, impatient):
  found = train(tmp_path, patience=2, rounds=len(impatient.metrics) - 1)
  assert 'ended_early' not in found.record
  found = train(tmp_path, patience=2, rounds=20)
  small.assert_same_numbers(tmp_path, impatient.folder)
  found = train(tmp_path, patience=2, rounds=30)
  small.assert_same_numbers(tmp_path, impatient.folder)
  assert found.record['ended_early'] == impatient.record['ended_early']


def test_ends_at_an_accuracy_and_is_compared(tmp_path, impatient):
  accuracies = impatient.metrics['eval_accuracy']
  found = train(tmp_path / 'run', stop_at_accuracy=float(accuracies[1]))
  assert len(found.metrics) == 2 and found.record['status'] == 'completed'
  assert 'is at least stop_at_accuracy' in found.record['ended_early']
  table = runs.compare({'soon': found, 'late': impatient}, tmp_path / 'compared').table
  assert table['rounds'].tolist() == [2, len(accuracies)]
  assert table['compared_round'].tolist() == [2, 2]


def test_the_best_model_of_a_run_that_keeps_it_no_longer_is_gone(tmp_path):
  """Rather than that of another round than run.json tells."""
  runs.train('digits', 'fed_avg', tmp_path, saving=SAVING, **small.FAST | dict(rounds=1))
  assert (tmp_path / 'model_best.keras').exists()
  found = runs.train('digits', 'fed_avg', tmp_path, **small.FAST)
  assert found.record['best_round'] == 2
  with pytest.raises(FileNotFoundError):
    found.load_model('best')


def test_a_run_that_diverges_ends_and_is_saved(tmp_path):
  given = small.OWN | dict(rounds=9, patience=2, client_learning_rate=1e30)
  found = runs.train(small.own_task(), 'fed_avg', tmp_path, **given)
  assert found.record['status'] == 'completed' and 'ended_early' in found.record
  assert found.load_model().count_params() == small.network().count_params()
