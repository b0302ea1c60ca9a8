"""Builds the functions of a computation ahead, in a thread of its own.

Before a function runs for the first time, Python builds it, and then TensorFlow optimizes it, which
leaves Python to another thread. So while a computation runs for the first time, from its first
function on, a second thread goes from the last one to the first, until they meet.
"""

from collections.abc import Iterator
import contextlib
import threading

import tensorflow as tf

from tff_lowrank.execution import cohort
from tff_lowrank.execution import graph_defs
from tff_lowrank.execution import plan as plan_lib


def _backwards(steps: list[plan_lib.Step]) -> Iterator[graph_defs.Lazy]:
  """The functions of `steps`, the last one first."""
  for step in reversed(steps):
    for graph in reversed(step.graphs):
      yield from reversed(graph.functions)


def _last_first(
  plan: plan_lib.Plan, runner: cohort.CohortRunner
) -> Iterator[tuple[graph_defs.Lazy, str | None]]:
  """The functions of `plan`, and TensorFlow's device for each; None for the server's."""
  device = runner.devices[0]
  for stage in reversed(plan.stages):
    parts = [part for a in stage.aggregations for part in (a.zero, a.accumulate, a.merge, a.report)]
    yield from ((function, None) for function in _backwards(parts))
    at_clients = [*stage.clients, *(a.value for a in stage.aggregations)]
    if at_clients and runner.engine(stage, device)[0] is None:
      yield from ((function, device.tensorflow) for function in _backwards(at_clients))
    yield from ((function, None) for function in _backwards(stage.server))


@contextlib.contextmanager
def preparing(plan: plan_lib.Plan, runner: cohort.CohortRunner) -> Iterator[None]:
  """Inside, the functions of `plan` are built, from the last on; afterwards nothing is running."""
  is_over = threading.Event()

  def run() -> None:
    with contextlib.suppress(Exception):  # Whoever calls the function is told.
      for function, device in _last_first(plan, runner):
        if is_over.is_set():
          break
        with tf.device(device):
          function.prepare()

  thread = threading.Thread(target=run, name='tff_lowrank_ahead', daemon=True)
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join()
