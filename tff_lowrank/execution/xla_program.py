"""Tracing the part of a stage that several clients run into one program."""

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
  """A client's data set while a program is traced.

  full: for each component, the batches of several clients end to end, [total, ...].
  low, high: int32 [], the bounds of this client's.
  longest: int32 [], the most batches of any client, where all run side by side; else None.
  tail: for each component of a last, smaller batch, its tensor; None without one.
  """

  full: list[tf.Tensor]
  low: tf.Tensor
  high: tf.Tensor
  longest: tf.Tensor | None
  tail: list[tf.Tensor] | None


class Tracer(loops.Engine):
  """Runs graphs while a program is traced: over `SymbolicBatches`, with variables of its own."""

  def __init__(self, side_by_side: bool):
    self._side_by_side = side_by_side
    self._variables: dict[int, list[tf.Variable]] = {}

  def graph(self, graph: graphs.GraphFunction) -> graphs.GraphFunction:
    return graph.for_xla_side_by_side if self._side_by_side else graph.for_xla

  def variables(self, graph: graphs.GraphFunction) -> list[tf.Tensor]:
    if id(graph) not in self._variables:
      with tf.init_scope():
        self._variables[id(graph)] = [
          tf.Variable(tf.zeros(spec.shape, spec.dtype)) for spec in graph.variables.values()
        ]
    return [variable.handle for variable in self._variables[id(graph)]]

  def initial_values(self, handles: Sequence[tf.Tensor]) -> list[np.ndarray]:
    """Arrays to start the variables behind `handles` from."""
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
      # Not `c[i]`, for which TensorFlow's bridge copies all of `c`.
      return i + 1, *step(state, [tf.gather(c, i) for c in source.full])

    def body_side_by_side(i: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
      # A client that is done keeps its state; what it is given then does not matter.
      position = tf.minimum(source.low + i, tf.shape(source.full[0])[0] - 1)
      new_state = step(state, [tf.gather(c, position) for c in source.full])
      is_on = source.low + i < source.high
      return i + 1, *(tf.where(is_on, new, old) for new, old in zip(new_state, state, strict=True))

    if source.longest is None:
      results = tf.while_loop(lambda i, *_: i < source.high, body, (source.low, *state))
    else:
      results = tf.while_loop(lambda i, *_: i < source.longest, body_side_by_side, (0, *state))
    state = list(results[1:])
    return state if source.tail is None else step(state, source.tail)


def client_leaves(stage: plan_lib.Stage, env: blocks.Environment, client: int) -> list[Any]:
  """What differs between clients, flat, of what a stage uses."""
  found: list[Any] = []
  _map_leaves(stage, env, lambda value: found.extend(sequences.flatten(value[client])), _nothing)
  return found


def server_leaves(stage: plan_lib.Stage, env: blocks.Environment) -> list[Any]:
  """What all clients share, flat, of what a stage uses."""
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
  """What a stage uses of `env`, with values at clients and shared tensors replaced."""

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


def program(
  stage: plan_lib.Stage,
  env: blocks.Environment,
  tracer: Tracer,
  sample: Sequence[Any],
  zero_sizes: Sequence[int],
  num_server: int,
  side_by_side: bool,
) -> Callable[..., list[tf.Tensor]]:
  """The program for clients like the one whose leaves are `sample`, for tracing.

  Args:
    stage: What to run.
    env: Gives values their structure.
    tracer: Runs the graphs.
    sample: A client's leaves.
    zero_sizes: The number of leaves of each aggregate.
    num_server: The number of leaves that all clients share.
    side_by_side: Whether each operation is of all clients at once, rather than each client's
      loop after the other's.
  """
  layout = [
    None
    if isinstance(leaf, tf.Tensor)
    else (len(leaf.batches().full), leaf.batches().tail is not None)
    for leaf in sample
  ]
  kept_steps = [step for step in stage.clients if step.name in stage.keep]
  kept_types = [t for step in kept_steps for t in _leaf_types(step.type_spec)]

  def run(num_clients: tf.Tensor, *arguments: tf.Tensor) -> list[tf.Tensor]:
    server = arguments[:num_server]
    totals = list(arguments[num_server : num_server + sum(zero_sizes)])
    of_clients = arguments[num_server + sum(zero_sizes) :]
    shapes = [t.shape for t in totals]
    capacity = of_clients[0].shape[0] - (layout[0] is not None)

    def leaves_of(k: tf.Tensor) -> list[Any]:
      remaining = iter(of_clients)
      leaves = []
      for entry in layout:
        if entry is None:
          leaves.append(tf.gather(next(remaining), k))
          continue
        components, has_tail = entry
        bounds = next(remaining)
        full = [next(remaining) for _ in range(components)]
        tail = [next(remaining) for _ in range(components)] if has_tail else None
        low, high = tf.gather(bounds, k), tf.gather(bounds, k + 1)
        longest = tf.reduce_max(bounds[1:] - bounds[:-1]) if side_by_side else None
        leaves.append(SymbolicBatches(full, low, high, longest, tail))
      return leaves

    def run_client(k: tf.Tensor) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
      """The leaves of a client's values to aggregate, and of those to keep."""
      leaves, shared = iter(leaves_of(k)), iter(server)
      seen = _map_leaves(
        stage, env, lambda value: _refill(value[0], leaves), lambda _: next(shared), tracer
      )
      for step in stage.clients:
        seen[step.name] = step.function(seen)
      to_add = [t for a in stage.aggregations for t in sequences.flatten(a.value.function(seen))]
      return to_add, [t for step in kept_steps for t in sequences.flatten(seen[step.name])]

    def accumulate(totals: list[tf.Tensor], to_add: list[tf.Tensor]) -> list[tf.Tensor]:
      totals, to_add, after = iter(totals), iter(to_add), []
      for a in stage.aggregations:
        before = sequences.pack(totals, a.zero.type_spec)
        value = sequences.pack(to_add, a.value.type_spec)
        after += sequences.flatten(a.accumulate.function({blocks.ENGINE: tracer})([before, value]))
      return [tf.ensure_shape(t, shape) for t, shape in zip(after, shapes, strict=True)]

    if capacity == 1:
      to_add, kept = run_client(0)
      return [*accumulate(totals, to_add), *(tf.expand_dims(t, 0) for t in kept)]

    if side_by_side:
      all_to_add, all_kept = tf.vectorized_map(
        run_client, tf.range(capacity), fallback_to_while_loop=False
      )

    def body(k, totals, kept):
      if side_by_side:
        return k + 1, accumulate(totals, [tf.gather(t, k) for t in all_to_add]), kept
      to_add, values = run_client(k)
      kept = [array.write(k, value) for array, value in zip(kept, values, strict=True)]
      return k + 1, accumulate(totals, to_add), kept

    kept = [
      tf.TensorArray(tf.as_dtype(t.dtype), capacity, element_shape=t.shape) for t in kept_types
    ]
    _, totals, kept = tf.while_loop(
      lambda k, *_: k < num_clients, body, (0, totals, kept), parallel_iterations=1
    )
    return [*totals, *(all_kept if side_by_side else (array.stack() for array in kept))]

  return run


def _refill(value: Any, leaves: Any) -> Any:
  """A client's value with its leaves replaced by the next of `leaves`."""
  return [_refill(item, leaves) for item in value] if isinstance(value, list) else next(leaves)
