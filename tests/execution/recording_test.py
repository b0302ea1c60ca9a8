"""Tests of `execution.recording`."""

import numpy as np

from tests.execution import cases
from tff_lowrank import execution
from tff_lowrank.execution import native
from tff_lowrank.execution import recording


def test_records_arguments_results_and_calls(rng):
  process, _, data = cases.federated_averaging(rng)
  with execution.create_local_context(compile='xla', max_clients_in_flight=1) as context:
    state = process.initialize()
    with recording.recording() as records:
      for _ in range(3):
        state = process.next(state, data).state
    num_calls = [record.num_calls for record in records]
    assert num_calls and all(calls % 3 == 0 for calls in num_calls)
    for record in records:
      arguments = [record.program.put(a) for a in record.arguments]
      again = [np.asarray(result) for result in record.program(arguments)]
      assert len(again) == len(record.results) > 0
      for want, got in zip(record.results, again, strict=True):
        np.testing.assert_array_equal(want, got)
    (stage,) = (s for s in context.plan(process.next).stages if s.aggregations)
    programs, _ = context.runner.engine(stage, context.runner.devices[0])
    assert {id(r.program) for r in records} == {id(p) for p in programs.compiled}


def test_captured_variables_are_recorded(rng):
  process, data = cases.lstm_averaging(rng)
  with execution.create_local_context(compile='xla', max_clients_in_flight=1):
    state = process.initialize()
    with recording.recording() as records:
      process.next(state, data)
  assert len(records[0].captured) > 0
  assert all(isinstance(a, np.ndarray) for a in records[0].captured)


def test_nothing_is_watched_afterwards(rng):
  process, _, data = cases.federated_averaging(rng)
  with execution.create_local_context(compile='xla', max_clients_in_flight=1):
    state = process.initialize()
    with recording.recording() as records:
      process.next(state, data)
    before = [record.num_calls for record in records]
    process.next(state, data)
  assert [record.num_calls for record in records] == before
  assert native.call_observers == []
