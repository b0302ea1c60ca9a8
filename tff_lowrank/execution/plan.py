"""Plans a computation: what runs at the server, what at each client, and in which order.

TFF's call-dominant form is a list of named steps. A step runs at the server, or at each client, or
is an aggregation. Clients' steps that need the result of an earlier aggregation are in a later
*stage*. In a stage each client runs by itself: all its steps, and then its part of each
aggregation. So the values of only a few clients are in memory at a time, apart from values that a
later stage or the result needs.
"""

from collections.abc import Callable, Iterator
import dataclasses
from typing import Any

import tensorflow_federated as tff

from tff_lowrank.execution import blocks
from tff_lowrank.execution import graphs
from tff_lowrank.execution import loops


class AtClients(list):
  """A list with one value for each client."""


def is_at_clients(type_spec: tff.Type) -> bool:
  """Whether a value of this type has a part that differs between clients."""
  return tff.types.contains(
    type_spec,
    lambda t: isinstance(t, tff.FederatedType) and t.placement is tff.CLIENTS and not t.all_equal,
  )


def project(value: Any, client: int) -> Any:
  """`value` for the client at this position of the cohort."""
  if isinstance(value, AtClients):
    return value[client]
  if isinstance(value, list):
    return [project(item, client) for item in value]
  return value


# The free names of a block, each with the index of an item if only that item of a struct is used.
Uses = frozenset[tuple[str, int | None]]


@dataclasses.dataclass(frozen=True)
class Step:
  """A step of a computation, which makes a named value.

  type_spec: the value's type, without its placement.
  uses: the names of other values that it uses.
  graphs: its TensorFlow graphs.
  """

  name: str
  type_spec: tff.Type
  function: blocks.Block
  uses: Uses
  graphs: tuple[graphs.GraphFunction, ...]


@dataclasses.dataclass(frozen=True)
class Aggregation:
  """A federated aggregation. All functions except `value` use the server's environment.

  is_mergeable: whether partial aggregates may be merged: true if accumulating and merging are the
    same computation, as for a sum.
  """

  name: str
  value: Step
  zero: Step
  accumulate: Step
  merge: Step
  report: Step
  is_mergeable: bool

  @property
  def uses(self) -> Uses:
    """The names used by the functions that use the server's environment."""
    return self.zero.uses | self.accumulate.uses | self.merge.uses | self.report.uses


@dataclasses.dataclass(eq=False)
class Stage:
  """The server's steps, which run first, and the clients' steps and aggregations.

  keep: the names of clients' values that are needed after the stage.
  uses: the names outside the stage that clients' steps and aggregated values use.
  """

  server: list[Step]
  clients: list[Step]
  aggregations: list[Aggregation]
  keep: list[str]
  uses: Uses

  @property
  def can_merge(self) -> bool:
    """Whether blocks of clients may be aggregated separately and then merged."""
    return all(a.is_mergeable for a in self.aggregations)


def _uses(block: tff.framework.ComputationBuildingBlock) -> Uses:

  def visit(block: Any, bound: frozenset[str]) -> Iterator[tuple[str, int | None]]:
    if isinstance(block, tff.framework.Reference):
      if block.name not in bound:
        yield block.name, None
    elif isinstance(block, tff.framework.Selection):
      source = block.source
      if isinstance(source, tff.framework.Reference) and source.name not in bound:
        yield source.name, block.as_index()
      else:
        yield from visit(source, bound)
    elif isinstance(block, tff.framework.Struct):
      for _, value in tff.structure.iter_elements(block):
        yield from visit(value, bound)
    elif isinstance(block, tff.framework.Call):
      yield from visit(block.function, bound)
      if block.argument is not None:
        yield from visit(block.argument, bound)
    elif isinstance(block, tff.framework.Lambda):
      yield from visit(block.result, bound | {block.parameter_name})
    elif isinstance(block, tff.framework.Block):
      for name, value in block.locals:
        yield from visit(value, bound)
        bound = bound | {name}
      yield from visit(block.result, bound)

  return frozenset(visit(block, frozenset()))


def _step(name: str, block: tff.framework.ComputationBuildingBlock) -> Step:
  compiler = blocks.Compiler()
  function = compiler.compile(block)
  type_spec = block.type_signature
  if isinstance(type_spec, tff.FederatedType):
    type_spec = type_spec.member
  return Step(name, type_spec, function, _uses(block), tuple(compiler.graphs))


def _is_same_computation(a: Any, b: Any) -> bool:
  return a is b or a.proto.SerializeToString(deterministic=True) == b.proto.SerializeToString(
    deterministic=True
  )


def _as_aggregation(name: str, block: Any) -> Aggregation | None:
  is_aggregate = (
    isinstance(block, tff.framework.Call)
    and isinstance(block.function, tff.framework.Intrinsic)
    and block.function.uri == 'federated_aggregate'
  )
  if not is_aggregate:
    return None
  if not isinstance(block.argument, tff.framework.Struct):
    raise blocks.UnsupportedError(f'Expected the arguments of {name} one by one.')
  parts = block.argument
  value, zero, accumulate, report = (_step(name, parts[i]) for i in (0, 1, 2, 4))
  is_mergeable = _is_same_computation(parts[2], parts[3])
  merge = accumulate if is_mergeable else _step(name, parts[3])
  return Aggregation(name, value, zero, accumulate, merge, report, is_mergeable)


class Plan:
  """The stages of a computation, in TFF's call-dominant form.

  block: the building block that it was made from.
  parameter: the name of the computation's parameter, or None.
  result: the function that makes the result, after the last stage.
  """

  def __init__(self, block: tff.framework.ComputationBuildingBlock):
    self.block = block
    self.parameter: str | None = None
    if isinstance(block, tff.framework.Lambda):
      self.parameter = block.parameter_name
      block = block.result
    elif isinstance(block.type_signature, tff.FunctionType):
      # A TensorFlow computation without any steps: call it.
      self.parameter = None
      if block.type_signature.parameter is not None:
        self.parameter = '@argument'
        argument = tff.framework.Reference('@argument', block.type_signature.parameter)
        block = tff.framework.Call(block, argument)
      else:
        block = tff.framework.Call(block)
    local_values, result = [], block
    if isinstance(block, tff.framework.Block):
      local_values, result = block.locals, block.result
    self.result = blocks.Compiler().compile(result)
    self.stages = _stages(local_values, {name for name, _ in _uses(result)})


def _stages(local_values: Any, used_by_result: set[str]) -> list[Stage]:
  level: dict[str, int] = {}  # The first stage that can use a value.
  server: dict[int, list[Step]] = {}
  clients: dict[int, list[Step]] = {}
  aggregations: dict[int, list[Aggregation]] = {}
  last_use: dict[str, int] = {}
  at_clients = set()

  def level_of(uses: Uses) -> int:
    return max((level.get(name, 0) for name, _ in uses), default=0)

  def note(uses: Uses, stage: int) -> None:
    for name, _ in uses:
      last_use[name] = max(last_use.get(name, 0), stage)

  for name, block in local_values:
    aggregation = _as_aggregation(name, block)
    if aggregation is not None:
      stage = max(level_of(aggregation.value.uses), level_of(aggregation.uses))
      aggregations.setdefault(stage, []).append(aggregation)
      note(aggregation.value.uses, stage)
      level[name] = stage + 1
      continue
    step = _step(name, block)
    stage = level[name] = level_of(step.uses)
    note(step.uses, stage)
    if is_at_clients(block.type_signature):
      at_clients.add(name)
      clients.setdefault(stage, []).append(step)
    else:
      server.setdefault(stage, []).append(step)

  stages = []
  for stage in range(max(level.values(), default=0) + 1):
    steps = clients.get(stage, [])
    folded = aggregations.get(stage, [])
    made = {step.name for step in steps}
    uses = frozenset().union(*(s.uses for s in steps), *(a.value.uses for a in folded))
    stages.append(
      Stage(
        server.get(stage, []),
        steps,
        folded,
        [s.name for s in steps if last_use.get(s.name, 0) > stage or s.name in used_by_result],
        frozenset(use for use in uses if use[0] not in made),
      )
    )
  return stages


def environment_of(
  uses: Uses,
  env: blocks.Environment,
  view: Callable[[Any], Any],
  engine: loops.Engine | None,
) -> blocks.Environment:
  """The values in `env` that `uses` names, each passed through `view`."""
  seen: blocks.Environment = {blocks.ENGINE: engine}
  whole = {name for name, index in uses if index is None}
  for name, index in uses:
    if name in whole:
      seen[name] = view(env[name])
    else:
      items = seen.setdefault(name, [None] * len(env[name]))
      items[index] = view(env[name][index])
  return seen
