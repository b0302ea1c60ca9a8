import jax
import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.execution import hlo
from tff_lowrank.execution import hlo_loops
from tff_lowrank.execution import native


@pytest.fixture
def loop_of(monkeypatch):
  """A function that gives the only loop of a program, with a state of constants or of arguments."""

  def loop_of(condition, body, initial, are_constants=True):
    made, loop_class = [], hlo_loops.Loop
    monkeypatch.setattr(hlo_loops, 'Loop', lambda *a: made.append(loop_class(*a)) or made[-1])
    constants = [np.int32(a) for a in initial]
    run = lambda *state: tf.while_loop(  # noqa: E731
      condition,
      body,
      [c + 0 * s for c, s in zip(constants, state, strict=True)]
      if not are_constants
      else constants,
    )
    traced, _ = native.trace(run, [tf.TensorSpec([], tf.int32) for c in constants])
    found = jax.jit(hlo.Function(traced.hlo))(*initial)
    assert [int(f) for f in found] == [int(w) for w in run(*constants)]
    return made[0]

  return loop_of


@pytest.mark.parametrize(
  'condition,step,trips',
  [
    (lambda i, n: i < 7, 1, 7),
    (lambda i, n: i < 7, 3, 3),
    (lambda i, n: 7 > i, 2, 4),
    (lambda i, n: i < n, 1, 5),
    (lambda i, n: tf.logical_and(i < n, i < 3), 1, 3),
    (lambda i, n: i < 0, 1, 0),
    (lambda i, n: i <= 7, 1, None),
  ],
)
def test_trips(loop_of, condition, step, trips):
  loop = loop_of(condition, lambda i, n: (i + step, n), [0, 5])
  assert loop.trips() == trips


def test_limits_that_change_or_are_not_known(loop_of):
  below = lambda i, n: i < n  # noqa: E731
  assert loop_of(below, lambda i, n: (i + 1, n - 1), [0, 5]).trips() is None
  assert loop_of(below, lambda i, n: (i + 1, n), [0, 5], are_constants=False).trips() is None


def test_what_no_step_changes_is_fixed(loop_of):
  loop = loop_of(lambda i, n: i < 7, lambda i, n: (i + n, n), [0, 5])
  assert loop.fixed and all(int(loop._initial[i]) == 5 for i in loop.fixed if i > 1)
