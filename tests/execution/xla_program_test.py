import numpy as np
import pytest

from tests.execution import cases
from tests.learning import linear
from tff_lowrank import execution
from tff_lowrank.execution import xla


@pytest.fixture
def run(monkeypatch):
  """Runs rounds in XLA, each client by itself or all side by side; checks that it was so."""

  def run(process, data, side_by_side):
    programs_class = xla.StagePrograms
    monkeypatch.setattr(
      xla,
      'StagePrograms',
      lambda stage, device, **_: programs_class(stage, device, side_by_side=side_by_side),
    )
    with execution.create_local_context(compile='xla') as context:
      result = cases.run_rounds(process, data, 2)
      device = context.runner.devices[0]
      stages = [s for s in context.plan(process.next).stages if s.clients]
      programs = [context.runner.engine(stage, device)[0] for stage in stages]
    monkeypatch.undo()
    assert all(p.failure is None and p.num_programs for p in programs)
    return result, programs

  return run


def test_side_by_side_equals_one_after_the_other(rng, run):
  process, *_ = cases.federated_averaging(rng)
  sizes = (9, 3, 12, 6, 6, 30, 3, 9)
  data = [linear.dataset(*linear.examples(rng, n), 3) for n in sizes]
  (wanted, wanted_metrics), _ = run(process, data, False)
  (weights, metrics), programs = run(process, data, True)
  assert all(p.side_by_side and p.failure_side_by_side is None for p in programs)
  for a, b in zip(weights, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)
  assert metrics['client_work']['train'] == pytest.approx(wanted_metrics['client_work']['train'])


def test_recurrent_models_of_variables_run_one_after_the_other(rng, run):
  process, data = cases.lstm_averaging(rng)
  (wanted, _), _ = run(process, data, False)
  (weights, _), programs = run(process, data, True)
  assert not any(p.side_by_side for p in programs)
  assert all(np.array_equal(a, b) for a, b in zip(weights, wanted, strict=True))
