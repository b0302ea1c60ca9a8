"""What is recorded of a run of FedAvg is what the run did."""

import itertools

import numpy as np
import pytest

from tests.runs import small
from tff_lowrank import runs
from tff_lowrank.runs import recording
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib

GIVEN = dict(task='digits', **small.FAST | dict(rounds=3, eval_every=2))


def record(method='fed_avg', **given):
  spec, found = spec_lib.make(method, GIVEN | given), []
  task = runner.build_task(spec)
  recording.record(spec, task, lambda *one: found.append(one))
  return found, task


@pytest.fixture(scope='module')
def fed_avg():
  return record()


def test_updates_make_the_next_model(fed_avg):
  found, _ = fed_avg
  assert [done.number for done, _ in found] == [1, 2, 3]
  for done, _ in found:
    assert len(done.updates) == 2 and done.updates.keys() == done.weights.keys()
    total = sum(done.weights.values())
    for i, (before, after) in enumerate(zip(done.before, done.after, strict=True)):
      mean = sum(done.weights[c] * update[i] for c, update in done.updates.items()) / total
      np.testing.assert_allclose(before - mean, after, atol=1e-6)
  for (one, _), (other, _) in itertools.pairwise(found):
    np.testing.assert_array_equal(one.after[0], other.before[0])


def test_it_is_the_run(tmp_path, fed_avg):
  run = runs.train('digits', 'fed_avg', tmp_path, **small.FAST | dict(rounds=3, eval_every=2))
  found, _ = fed_avg
  for (_, measured), row in zip(found, run.metrics.to_dict('records'), strict=True):
    assert measured.downlink_bytes == row['downlink_bytes']
    if measured.evaluated is None:
      assert np.isnan(row['eval_accuracy'])
    else:
      assert measured.evaluated['accuracy'] == pytest.approx(row['eval_accuracy'], abs=1e-6)
      assert measured.evaluated['loss'] == pytest.approx(row['eval_loss'], rel=1e-5)


def test_weights_count_what_is_trained_on(fed_avg):
  found, task = fed_avg
  for client, weight in found[0][0].weights.items():
    assert weight == task.train.num_examples(client)
  found, _ = record(client_max_elements=50, client_epochs=2, rounds=1)
  assert set(found[0][0].weights.values()) == {50.0}
  found, _ = record(client_weighting='uniform', rounds=1)
  assert set(found[0][0].weights.values()) == {1.0}


def test_of_other_methods_there_are_no_updates():
  found, _ = record('fed_prox', rounds=1)
  [(done, measured)] = found
  assert done.updates == {} == done.weights
  assert not np.array_equal(done.before[0], done.after[0])
  assert measured.uplink_bytes == 2 * 4 * 4810 and measured.evaluated['accuracy'] > 0
