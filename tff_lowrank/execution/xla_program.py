"""Traces the clients' part of a stage into one program for several clients."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import blocks
from tff_lowrank.execution import graphs
from tff_lowrank.execution import loops
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import sequences


@dataclasses.dataclass(frozen=True)
class SymbolicBatches:
  """A client's data set during the tracing of a program.

  full: for each component, the concatenated batches of several clients, [total, ...].
  low: int32 [], where this client's batches begin.
  high: where they end: int32 [], or a Python integer if all clients have the same number.
  tail: the components of a smaller last batch; None if there is none.
  """

  full: list[tf.Tensor]
  low: tf.Tensor | int
  high: tf.Tensor | int
  tail: list[tf.Tensor] | None


class Tracer(loops.Engine):
  """Runs graphs during the tracing of a program, on `SymbolicBatches`, with its own variables."""

  def __init__(self):
    self._variables: dict[int, list[tf.Variable]] = {}

  def graph(self, graph: graphs.GraphFunction) -> graphs.GraphFunction:
    return graph.for_xla

  def variables(self, graph: graphs.GraphFunction) -> list[tf.Tensor]:
    if id(graph) not in self._variables:
      with tf.init_scope():
        self._variables[id(graph)] = [
          tf.Variable(tf.zeros(spec.shape, spec.dtype)) for spec in graph.variables.values()
        ]
    return [variable.handle for variable in self._variables[id(graph)]]

  def initial_values(self, handles: Sequence[tf.Tensor]) -> list[np.ndarray]:
    """The initial values of the variables with these handles, as arrays."""
    by_handle = {id(v.handle): v for vs in self._variables.values() for v in vs}
    return [by_handle[id(handle)].numpy() for handle in handles]

  def loop(
    self,
    loop: loops.Loop,
    source: SymbolicBatches,
    state: list[tf.Tensor],
    others: list[tf.Tensor],
  ) -> list[tf.Tensor]:
    shapes = [t.shape for t in state]

    def step(state: Sequence[tf.Tensor], components: Sequence[tf.Tensor]) -> list[tf.Tensor]:
      new_state = loop.step(*state, *components, *others)
      return [tf.ensure_shape(t, shape) for t, shape in zip(new_state, shapes, strict=True)]

    def body(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
      # Not `c[i]`, for which TensorFlow's XLA compiler copies all of `c`.
      return i + 1, *step(state, [tf.gather(c, i) for c in source.full])

    results = tf.while_loop(lambda i, *_: i < source.high, body, (source.low, *state))
    state = list(results[1:])
    return state if source.tail is None else step(state, source.tail)


def client_leaves(stage: plan_lib.Stage, env: blocks.Environment, client: int) -> list[Any]:
  """The flattened values of a client that a stage uses and that differ between clients."""
  found: list[Any] = []
  _map_leaves(stage, env, lambda value: found.extend(sequences.flatten(value[client])), _nothing)
  return found


def server_leaves(stage: plan_lib.Stage, env: blocks.Environment) -> list[Any]:
  """The flattened values that a stage uses and that all clients share."""
  found: list[Any] = []
  _map_leaves(stage, env, _nothing, found.append)
  return found


def _nothing(value: Any) -> None:
  del value


def _map_leaves(
  stage: plan_lib.Stage,
  env: blocks.Environment,
  at_clients: Callable[[plan_lib.AtClients], Any],
  shared: Callable[[tf.Tensor], Any],
  engine: loops.Engine | None = None,
) -> blocks.Environment:
  """The values of `env` that a stage uses, with values at clients and shared tensors replaced."""

  def replace(value: Any) -> Any:
    if isinstance(value, plan_lib.AtClients):
      return at_clients(value)
    if isinstance(value, list):
      return [replace(item) for item in value]
    return None if value is None else shared(value)

  return plan_lib.environment_of(stage.uses, env, replace, engine)


def num_leaves(type_spec: tff.Type) -> int:
  if isinstance(type_spec, tff.StructType):
    return sum(num_leaves(t) for t in type_spec)
  return 1


def _leaf_types(type_spec: tff.Type) -> list[tff.TensorType]:
  if isinstance(type_spec, tff.StructType):
    return [leaf for t in type_spec for leaf in _leaf_types(t)]
  return [type_spec]


class ClientPart:
  """A client's part of a stage, and how its results are aggregated, for tracing."""

  def __init__(
    self,
    stage: plan_lib.Stage,
    env: blocks.Environment,
    sample: Sequence[Any],
  ):
    """`env`: has the values' structure. `sample`: the leaves of one of the clients."""
    self.tracer = Tracer()
    self.layout = [
      None
      if isinstance(leaf, tf.Tensor)
      else (len(leaf.batches().full), leaf.batches().tail is not None)
      for leaf in sample
    ]
    self._stage, self._env = stage, env
    self._kept = [step for step in stage.clients if step.name in stage.keep]
    self.kept_types = [t for step in self._kept for t in _leaf_types(step.type_spec)]

  def run(
    self, server: Sequence[tf.Tensor], leaves: Sequence[tf.Tensor | SymbolicBatches]
  ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The leaves of a client's values to aggregate, and of its values to keep."""
    own, shared = iter(leaves), iter(server)
    seen = _map_leaves(
      self._stage,
      self._env,
      lambda value: _refill(value[0], own),
      lambda _: next(shared),
      self.tracer,
    )
    for step in self._stage.clients:
      seen[step.name] = step.function(seen)
    values = (a.value.function(seen) for a in self._stage.aggregations)
    to_add = [t for value in values for t in sequences.flatten(value)]
    return to_add, [t for step in self._kept for t in sequences.flatten(seen[step.name])]

  def accumulate(self, totals: Sequence[tf.Tensor], to_add: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The totals plus one more client's values, or plus other totals."""
    shapes = [t.shape for t in totals]
    all_before, all_values, after = iter(totals), iter(to_add), []
    for a in self._stage.aggregations:
      before = sequences.pack(all_before, a.zero.type_spec)
      value = sequences.pack(all_values, a.value.type_spec)
      accumulate = a.accumulate.function({blocks.ENGINE: self.tracer})
      after += sequences.flatten(accumulate([before, value]))
    return [tf.ensure_shape(t, shape) for t, shape in zip(after, shapes, strict=True)]


def program(part: ClientPart, num_server: int, num_totals: int) -> Callable[..., list[tf.Tensor]]:
  """The program that runs clients one after the other, for tracing.

  Args:
    part: What each client runs.
    num_server: The number of leaves that all clients share.
    num_totals: The number of leaves of the aggregates.

  Returns:
    A function of the number of clients, the shared leaves, the aggregates so far and the arrays of
    `layout.cohort`. Its results are the aggregates, and the values to keep, [clients, ...].
  """

  def run(num_clients: tf.Tensor, *arguments: tf.Tensor) -> list[tf.Tensor]:
    server = arguments[:num_server]
    totals = list(arguments[num_server : num_server + num_totals])
    of_clients = arguments[num_server + num_totals :]
    capacity = of_clients[0].shape[0] - (part.layout[0] is not None)

    def leaves_of(k: tf.Tensor | int) -> list[Any]:
      remaining = iter(of_clients)
      leaves = []
      for entry in part.layout:
        if entry is None:
          leaves.append(tf.gather(next(remaining), k))
          continue
        components, has_tail = entry
        bounds = next(remaining)
        full = [next(remaining) for _ in range(components)]
        tail = [tf.gather(next(remaining), k) for _ in range(components)] if has_tail else None
        leaves.append(SymbolicBatches(full, tf.gather(bounds, k), tf.gather(bounds, k + 1), tail))
      return leaves

    if capacity == 1:
      to_add, kept = part.run(server, leaves_of(0))
      return [*part.accumulate(totals, to_add), *(tf.expand_dims(t, 0) for t in kept)]

    def body(k, totals, kept):
      to_add, values = part.run(server, leaves_of(k))
      kept = [array.write(k, value) for array, value in zip(kept, values, strict=True)]
      return k + 1, part.accumulate(totals, to_add), kept

    kept = [
      tf.TensorArray(tf.as_dtype(t.dtype), capacity, element_shape=t.shape) for t in part.kept_types
    ]
    _, totals, kept = tf.while_loop(
      lambda k, *_: k < num_clients, body, (0, totals, kept), parallel_iterations=1
    )
    return [*totals, *(array.stack() for array in kept)]

  return run


def _refill(value: Any, leaves: Any) -> Any:
  """A client's value with its leaves replaced by the next ones of `leaves`."""
  return [_refill(item, leaves) for item in value] if isinstance(value, list) else next(leaves)
