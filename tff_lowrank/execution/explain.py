"""Explains how a computation runs: what was compiled, and why the rest was not."""

from collections.abc import Iterator

import tensorflow_federated as tff

from tff_lowrank.execution import cohort
from tff_lowrank.execution import context as context_lib
from tff_lowrank.execution import loops as loops_lib
from tff_lowrank.execution import plan as plan_lib


def explain(computation: tff.Computation, context: context_lib.LocalContext | None = None) -> None:
  """Prints how `computation` runs in `context`; None stands for the current context.

  After the computation has run, this includes the programs that were compiled for it.

  Raises TypeError if the context is not a `LocalContext`.
  """
  if context is None:
    context = tff.framework.get_context_stack().current
  if not isinstance(context, context_lib.LocalContext):
    raise TypeError(f'Expected a LocalContext, found {type(context).__name__}.')
  print('\n'.join(_lines(computation, context)))


def _lines(computation: tff.Computation, context: context_lib.LocalContext) -> Iterator[str]:
  yield computation.type_signature.compact_representation()
  for number, stage in enumerate(context.plan(computation).stages, 1):
    yield (
      f'stage {number}: {len(stage.server)} steps at the server, {len(stage.clients)} at each '
      f'client, {len(stage.aggregations)} aggregations'
    )
    for step in stage.server:
      for graph in step.graphs:
        yield from (f'  server {_loop(loop)}' for loops in graph.loops for loop in loops)
    for step in (*stage.clients, *(a.value for a in stage.aggregations)):
      for graph in step.graphs:
        yield from (f'  client {_loop(loop)}' for loops in graph.loops for loop in loops)
    for aggregation in stage.aggregations:
      if not aggregation.is_mergeable:
        yield f'  {aggregation.name} is not a sum: clients are added one by one, in order'
    if stage.clients or stage.aggregations:
      yield from (f'  {_engine(context, stage, device)}' for device in context.runner.devices)


def _loop(loop: loops_lib.Loop) -> str:
  if loop.parameter is None:
    return f'loop {loop.name}: its data set is made in the computation, and read as it comes'
  return f'loop {loop.name}: lowered to a loop over the stacked batches of its data set'


def _engine(context: context_lib.LocalContext, stage: plan_lib.Stage, device: cohort.Device) -> str:
  programs, reason = context.runner.engine(stage, device)
  if programs is None:
    return f'{device.name}: clients run in TensorFlow: {reason}'
  if programs.failure:
    return f'{device.name}: clients run in TensorFlow, as XLA refused: {programs.failure}'
  manner = 'one after the other'
  if programs.batched:
    manner = 'batched'
  elif programs.failure_batched:
    manner += f' (not batched: {programs.failure_batched})'
  return (
    f'{device.name}: clients run in XLA programs, {manner}; {programs.num_programs} compiled so far'
  )
