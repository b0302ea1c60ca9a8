import types

import numpy as np
import pytest

from tff_lowrank import freezing
from tff_lowrank.runs import freezing_trace

SETTINGS = freezing.Settings(stability_threshold=0.5)
NAMES = ['dense/kernel', 'dense/bias']


def state(weights, frozen):
  """The state of a process after a round, as far as a trace looks at it.

  `frozen` is what is frozen in the next.
  """
  masks = [np.asarray(mask) for mask in frozen]
  known = types.SimpleNamespace(round=5, wake=[np.where(mask, 6, 5) for mask in masks])
  arrays = [np.asarray(w, np.float32) for w in weights]
  return types.SimpleNamespace(
    global_model_weights=types.SimpleNamespace(trainable=arrays), finalizer=dict(freezing=known)
  )


ROUNDS = [
  state([[[1, 2], [3, 4]], [5]], [[[False, False], [False, False]], [False]]),
  state([[[2, 2], [3, 4]], [5]], [[[False, True], [False, False]], [True]]),
  state([[[3, 2], [3, 4]], [5]], [[[False, False], [True, False]], [True]]),
]


def trace(rounds=ROUNDS, seed=1):
  found = freezing_trace.FreezingTrace(SETTINGS, seed, NAMES)
  for one in rounds:
    found.add(one)
  return found


def test_when_each_parameter_first_froze():
  saved = trace().save()
  assert saved['shape_0'].tolist() == [2, 2] and saved['shape_1'].tolist() == [1]
  assert saved['first_frozen_0'].tolist() == [-1, 2, 3, -1]
  assert saved['first_frozen_1'].tolist() == [2]


def test_few_parameters_are_all_sampled():
  saved = trace().save()
  assert saved['sample_tensor'].tolist() == [0, 0, 0, 0, 1]
  assert saved['sample_index'].tolist() == [0, 1, 2, 3, 0]
  assert saved['sample_value'].tolist() == [[1, 2, 3, 4, 5], [2, 2, 3, 4, 5], [3, 2, 3, 4, 5]]
  assert saved['sample_frozen'][1].tolist() == [False, True, False, False, True]
  assert saved['sample_value'].dtype == np.float32 and saved['sample_frozen'].dtype == bool


def test_of_many_parameters_the_seed_chooses():
  many = [state([np.arange(90).reshape(9, 10), np.arange(90, 190)], [np.zeros([9, 10]), False])]
  first, again, other = (trace(many, seed).save() for seed in (1, 1, 2))
  places = first['sample_tensor'] * 90 + first['sample_index']
  assert len(places) == freezing_trace.NUM_SAMPLES == len(set(places))
  np.testing.assert_array_equal(first['sample_value'], [places])
  np.testing.assert_array_equal(first['sample_value'], again['sample_value'])
  assert not np.array_equal(first['sample_value'], other['sample_value'])


def test_a_tensor_that_is_frozen_as_a_whole():
  saved = trace([state([[1, 2, 3], [4, 5]], [True, False])]).save()
  assert saved['first_frozen_0'].tolist() == [1, 1, 1]
  assert saved['first_frozen_1'].tolist() == [-1, -1]


@pytest.mark.parametrize('stop', [0, 1, 2, 3])
def test_goes_on_from_what_was_saved(tmp_path, stop):
  found = freezing_trace.FreezingTrace(SETTINGS, 1, NAMES)
  found.restore(trace(ROUNDS[:stop]).save())
  for one in ROUNDS[stop:]:
    found.add(one)
  found.write(tmp_path / freezing_trace.FILE)
  with np.load(tmp_path / freezing_trace.FILE) as written:
    expected = trace().save() | dict(names=NAMES)
    assert {*written} == {*expected}
    for name, value in expected.items():
      np.testing.assert_array_equal(written[name], value)
