"""The rounds of a run: what is evaluated, saved and told to whom, and how they end."""

import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank.runs import loop
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import stopping

GIVEN = dict(task='digits', **small.FAST | dict(rounds=4))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run of four rounds whose clients remember and drop out."""
  folder = tmp_path_factory.mktemp('whole')
  train(folder)
  return runs.Run(folder)


def train(folder, is_enough=lambda row: False, **saving):
  more = dict(
    uplink='error_feedback(top_k(0.1))',
    dropout_rate=0.3,
    client_test_fraction=0.2,
    evaluate_after_training=True,
    eval_every=2,
    clients_per_round=3,
  )
  spec = spec_lib.make('fed_avg', GIVEN | more)
  runner.train(spec, folder, 'run', runs.Saving(**saving), is_enough)


def test_rounds_that_are_evaluated(whole):
  metrics = whole.metrics
  for name in ('eval_accuracy', 'eval_personal_accuracy', 'eval_loss'):
    assert metrics[name].notna().tolist() == [False, True, False, True], name
  trained = f'eval_{loop.evaluation.TRAINED_ACCURACY}'
  assert metrics[trained].notna().tolist() == [False, True, False, True]
  assert (metrics[trained] != metrics['eval_personal_accuracy'])[1]
  assert whole.record['best_round'] in (2, 4) and 'ended_early' not in whole.record


@pytest.mark.parametrize('every', [1, 3])
def test_is_ended_by_whoever_sees_its_rows_and_goes_on(tmp_path, whole, every):
  seen = []

  def is_enough(row):
    seen.append(row)
    return row['round'] == 2

  with pytest.raises(stopping.Stopped, match='^Stopped after round 2 of 4; saved in') as stopped:
    train(tmp_path, is_enough, checkpoint_every=every)
  assert stopped.value.signal_number is None and stopped.value.exit_status == 128
  assert [row['round'] for row in seen] == [1, 2]
  assert seen[0]['eval_accuracy'] is None and seen[1]['eval_accuracy'] >= 0
  run = runs.Run(tmp_path)
  assert run.record['status'] == 'stopped' and len(run.metrics) == 2
  assert max(manifest.saved_rounds(tmp_path / 'checkpoints')) == 2
  assert not (tmp_path / 'model.keras').exists()
  train(tmp_path)
  small.assert_same_numbers(tmp_path, whole.folder)


def test_how_often_it_is_saved(tmp_path):
  train(tmp_path, checkpoint_every=3, keep_checkpoints=9)
  assert manifest.saved_rounds(tmp_path / 'checkpoints') == [3, 4]


def test_files_of_freezing_methods(tmp_path):
  runs.train('digits', 'apf', tmp_path / 'apf', **small.FAST)
  runs.train('digits', 'fed_avg', tmp_path / 'fed_avg', **small.FAST)
  assert (tmp_path / 'apf' / 'freezing.npz').exists()
  assert not (tmp_path / 'fed_avg' / 'freezing.npz').exists()


def test_what_cannot_be_read_back_is_damage(tmp_path, monkeypatch):
  runs.train('digits', 'lbgm', tmp_path, **small.FAST)

  def restore(self, *arguments):
    raise ValueError('7 tensors, not 8')

  monkeypatch.setattr(loop.checkpoint.Checkpoints, 'restore', restore)
  with pytest.raises(manifest.DamagedError, match='7 tensors, not 8'):
    runs.train('digits', 'lbgm', tmp_path, **small.FAST | dict(rounds=3))
  assert runs.Run(tmp_path).record['status'] == 'failed'
