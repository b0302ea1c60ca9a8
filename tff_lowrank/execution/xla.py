"""The XLA engine: many clients' parts of a round as one program.

TensorFlow's bridge turns the part of a stage that one client runs, with its loops over data
sets made loops over stacked batches, into HLO, and jaxlib's PJRT client compiles and runs it.
The program takes the batches of several clients laid end to end, with the bounds of each, and
loops over the clients, adding up what is aggregated; so one compiled program serves clients of
any length. A client whose last batch is smaller than the others runs in a program that is
compiled for that size.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import itertools
import threading
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import blocks
from tff_lowrank.execution import graphs
from tff_lowrank.execution import native
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import sequences

# What XLA would run with another meaning, or not at all.
_REFUSED_OPS = frozenset(
  ['Assert', 'EagerPyFunc', 'Print', 'PrintV2', 'PyFunc', 'Timestamp']
)
_REFUSED_PREFIXES = ('Multinomial', 'Parameterized', 'Random', 'Rng', 'Stateless', 'StatefulRandom')
_STATELESS_CONTROL_FLOW = frozenset(['StatelessCase', 'StatelessIf', 'StatelessWhile'])
# What oneDNN does several times faster than XLA's loops on the CPU.
_CONVOLUTIONS = ('Conv2D', 'Conv3D', 'DepthwiseConv2d')

# Loops of fewer steps in all are not worth a compilation.
_MIN_STEPS = 16
# There are as many programs for smaller last batches as there are smaller batches.
_MAX_BATCH_WITH_TAIL = 64


def reason_against(stage: plan_lib.Stage, on_cpu: bool) -> str | None:
  """Why XLA should not run the clients' part of `stage`, or None if it should."""
  steps = [*stage.clients, *(a.value for a in stage.aggregations)]
  functions = [graph for step in steps for graph in step.graphs]
  if not any(loops for graph in functions for loops in graph.loops):
    return 'no loop over a data set'
  if not all(a.is_mergeable and not a.accumulate.uses for a in stage.aggregations):
    return 'an aggregation that is not a sum'
  if not all(_has_static_shape(s.type_spec) for s in stage.clients if s.name in stage.keep):
    return 'results at clients of unknown shape'
  functions += [graph for a in stage.aggregations for graph in a.accumulate.graphs]
  return next((reason for g in functions if (reason := _reason_in_graph(g, on_cpu))), None)


def _has_static_shape(type_spec: tff.Type) -> bool:
  return tff.types.contains_only(
    type_spec,
    lambda t: isinstance(t, tff.StructType)
    or (isinstance(t, tff.TensorType) and None not in (t.shape or ())),
  )


def _reason_in_graph(graph: graphs.GraphFunction, on_cpu: bool) -> str | None:
  if any(loop.parameter is None for loops in graph.loops for loop in loops):
    return 'a data set that is made or changed inside the computation'
  if not all(spec.shape.is_fully_defined() for spec in graph.variables.values()):
    return 'variables of unknown shape'
  for op_type, dtypes in graph.for_xla.operations():
    if tf.string in dtypes:
      return 'strings'
    if 'Table' in op_type:
      return 'tables'
    if op_type in _REFUSED_OPS or 'Dataset' in op_type or 'Iterator' in op_type or (
      op_type.startswith(_REFUSED_PREFIXES) and op_type not in _STATELESS_CONTROL_FLOW
    ):
      return f'the operation {op_type}'
    if on_cpu and op_type.startswith(_CONVOLUTIONS):
      return 'convolutions, which TensorFlow runs faster on the CPU'
  return None


@dataclasses.dataclass(frozen=True)
class SymbolicBatches:
  """A client's data set while a program is traced.

  full: for each component, the batches of several clients end to end, [total, ...].
  low, high: int32 [], the bounds of this client's.
  tail: for each component of a last, smaller batch, its tensor; None without one.
  """

  full: list[tf.Tensor]
  low: tf.Tensor
  high: tf.Tensor
  tail: list[tf.Tensor] | None


class _Tracer(graphs.Engine):
  """Runs graphs while a program is traced: over `SymbolicBatches`, with variables of its own."""

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
    """Arrays to start the variables behind `handles` from."""
    by_handle = {id(v.handle): v for vs in self._variables.values() for v in vs}
    return [by_handle[id(handle)].numpy() for handle in handles]

  def loop(
    self,
    loop: graphs.Loop,
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

    state = list(tf.while_loop(lambda i, *_: i < source.high, body, (source.low, *state))[1:])
    return state if source.tail is None else step(state, source.tail)


@dataclasses.dataclass
class _Cohort:
  """Arguments of one program.

  signature: all that the program depends on.
  num_clients: of which the arguments are.
  arrays: in the order of the program's arguments after the server's and the aggregates.
  """

  signature: Any
  num_clients: int
  arrays: list[np.ndarray]


def _bucket(size: int, base: int) -> int:
  """The smallest power of `base` that is at least `size`: few sizes, few compilations."""
  bucket = 1
  while bucket < size:
    bucket *= base
  return bucket


def _key(leaves: Sequence[Any]) -> tuple[Any, ...] | None:
  """What clients in one program must share; None for a client that XLA cannot run."""
  key = []
  for leaf in leaves:
    if isinstance(leaf, tf.Tensor):
      key.append((leaf.dtype, tuple(leaf.shape)))
      continue
    batches = leaf.batches()
    if batches is None:
      return None
    full, tail = batches.shapes
    if tail is not None and any(s and s[0] > _MAX_BATCH_WITH_TAIL for _, s in full):
      return None
    key.append(batches.shapes)
  return tuple(key)


def _num_steps(leaves: Sequence[Any]) -> int:
  return sum(leaf.batches().num_steps for leaf in leaves if not isinstance(leaf, tf.Tensor))


def _has_tail(leaves: Sequence[Any]) -> bool:
  of_data = (leaf for leaf in leaves if not isinstance(leaf, tf.Tensor))
  return any(leaf.batches().tail is not None for leaf in of_data)


class _LaidOut:
  """Batches of several clients laid end to end, kept while the same clients come again."""

  _MAX_KEPT = 16

  def __init__(self):
    self._kept: collections.OrderedDict[Any, tuple[list[Any], list[np.ndarray]]] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def arrays(self, batches: list[sequences.Batches], capacity: int) -> list[np.ndarray]:
    """The clients' bounds, int32 [capacity + 1], then each component, [total, ...]."""
    key = (capacity, *map(id, batches))
    with self._lock:
      kept = self._kept.get(key)
      if kept is not None and all(r() is b for r, b in zip(kept[0], batches, strict=True)):
        self._kept.move_to_end(key)
        return kept[1]
    arrays = _lay_out(batches, capacity)
    with self._lock:
      references = [weakref.ref(b, lambda _: self._kept.pop(key, None)) for b in batches]
      self._kept[key] = (references, arrays)
      while len(self._kept) > self._MAX_KEPT:
        self._kept.popitem(last=False)
    return arrays


def _lay_out(batches: list[sequences.Batches], capacity: int) -> list[np.ndarray]:
  bounds = np.zeros([capacity + 1], np.int32)
  bounds[1 : len(batches) + 1] = np.cumsum([b.num_full for b in batches])
  used = int(bounds[len(batches)])
  total = _bucket(used, 4 if capacity == 1 else 2)
  arrays = [bounds]
  for component in range(len(batches[0].full)):
    parts = [b.full[component] for b in batches]
    laid_out = np.empty([total, *parts[0].shape[1:]], parts[0].dtype)
    np.concatenate(parts, out=laid_out[:used])
    arrays.append(laid_out)
  return arrays


def _cohort(key: Any, clients: Sequence[Sequence[Any]], laid_out: _LaidOut) -> _Cohort:
  """The arguments for clients of one key, each given by its leaves."""
  # One client by itself or a block of several: few shapes, whatever the number.
  capacity = 1 if len(clients) == 1 else _bucket(len(clients), 2)
  arrays = []
  for position, leaf in enumerate(clients[0]):
    of_clients = [leaves[position] for leaves in clients]
    if isinstance(leaf, tf.Tensor):
      stacked = np.zeros([capacity, *leaf.shape], leaf.dtype.as_numpy_dtype)
      for i, tensor in enumerate(of_clients):
        stacked[i] = np.asarray(tensor)
      arrays.append(stacked)
      continue
    batches = [sequence.batches() for sequence in of_clients]
    arrays += laid_out.arrays(batches, capacity)
    arrays += batches[0].tail or []
  shapes = tuple(a.shape for a in arrays)
  return _Cohort((key, capacity, shapes), len(clients), arrays)


class StagePrograms:
  """The programs of one stage on one device, each compiled when it is first needed."""

  def __init__(self, stage: plan_lib.Stage, device: Any):
    self._stage = stage
    self._device = device
    self._programs: dict[Any, native.XlaProgram | None] = {}
    self._lock = threading.Lock()
    self._laid_out = _LaidOut()
    self.failure: str | None = None

  def groups(
    self, env: blocks.Environment, clients: Sequence[int], force: bool
  ) -> list[tuple[list[int], Any, list[list[Any]]]]:
    """Splits clients into those that one program runs.

    Each group is its clients, their key (None: not for XLA) and their leaves.
    """
    by_key: dict[Any, tuple[list[int], list[list[Any]]]] = {}
    for client in clients:
      leaves = _client_leaves(self._stage, env, client)
      key = None if self.failure else _key(leaves)
      # Clients with a smaller last batch come one by one, so that few programs serve all.
      group = (key, client if key is not None and _has_tail(leaves) else None)
      members, member_leaves = by_key.setdefault(group, ([], []))
      members.append(client)
      member_leaves.append(leaves)
    result = []
    for (key, _), (members, leaves) in by_key.items():
      if key is not None and not force and sum(map(_num_steps, leaves)) < _MIN_STEPS:
        key = None
      result.append((members, key, leaves))
    return result

  def run(
    self,
    env: blocks.Environment,
    key: Any,
    leaves: list[list[Any]],
    zeros: list[list[tf.Tensor]],
  ) -> tuple[list[list[np.ndarray]], list[list[list[np.ndarray]]]] | None:
    """Runs the clients of one group.

    Returns the flat partial aggregates, and for each client the flat values to keep; or None
    if the program could not be compiled.
    """
    cohort = _cohort(key, leaves, self._laid_out)
    server = _server_leaves(self._stage, env)
    flat_zeros = [t for zero in zeros for t in zero]
    signature = (
      cohort.signature,
      tuple((t.dtype, tuple(t.shape)) for t in itertools.chain(server, flat_zeros)),
    )
    with self._lock:
      if signature not in self._programs:
        self._programs[signature] = self._compile(env, cohort, leaves[0], server, zeros)
      program = self._programs[signature]
    if program is None:
      return None
    arguments = [np.int32(cohort.num_clients)]
    arguments += [np.asarray(t) for t in itertools.chain(server, flat_zeros)]
    arguments += cohort.arrays
    results = iter(program([program.put(np.asarray(a)) for a in arguments]))
    partials = [[np.asarray(next(results)) for _ in zero] for zero in zeros]
    counts = [_num_leaves(s.type_spec) for s in self._stage.clients if s.name in self._stage.keep]
    kept = [[np.asarray(next(results)) for _ in range(count)] for count in counts]
    # Copies, so that no client's value keeps the block's memory.
    return partials, [
      [[np.array(a[i]) for a in value] for value in kept] for i in range(cohort.num_clients)
    ]

  def _compile(self, env, cohort, sample, server, zeros) -> native.XlaProgram | None:
    tracer = _Tracer()
    program = _program(
      self._stage, env, tracer, sample, [len(zero) for zero in zeros], len(server)
    )
    function = tf.function(program, jit_compile=True, autograph=False)
    specs = [tf.TensorSpec([], tf.int32)]
    specs += [tf.TensorSpec(t.shape, t.dtype) for t in server]
    specs += [tf.TensorSpec(t.shape, t.dtype) for zero in zeros for t in zero]
    specs += [tf.TensorSpec(a.shape, a.dtype) for a in cohort.arrays]
    try:
      handles = function.get_concrete_function(*specs).captured_inputs
      return native.XlaProgram(function, specs, self._device, tracer.initial_values(handles))
    except Exception as e:  # Whatever TensorFlow's bridge or XLA refuse, TensorFlow itself runs.
      self.failure = f'{type(e).__name__}: {str(e).__str__()[:3000]}'
      return None


def _client_leaves(stage: plan_lib.Stage, env: blocks.Environment, client: int) -> list[Any]:
  """What differs between clients, flat, of what a stage uses."""
  found: list[Any] = []
  _map_leaves(stage, env, lambda value: found.extend(sequences.flatten(value[client])), _nothing)
  return found


def _server_leaves(stage: plan_lib.Stage, env: blocks.Environment) -> list[Any]:
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
  engine: graphs.Engine | None = None,
) -> blocks.Environment:
  """What a stage uses of `env`, with values at clients and shared tensors replaced."""

  def replace(value: Any) -> Any:
    if isinstance(value, plan_lib.AtClients):
      return at_clients(value)
    if isinstance(value, list):
      return [replace(item) for item in value]
    return None if value is None else shared(value)

  return plan_lib.environment_of(stage.uses, env, replace, engine)


def _num_leaves(type_spec: tff.Type) -> int:
  if isinstance(type_spec, tff.StructType):
    return sum(_num_leaves(t) for t in type_spec)
  return 1


def _leaf_types(type_spec: tff.Type) -> list[tff.TensorType]:
  if isinstance(type_spec, tff.StructType):
    return [leaf for t in type_spec for leaf in _leaf_types(t)]
  return [type_spec]


def _program(
  stage: plan_lib.Stage,
  env: blocks.Environment,
  tracer: _Tracer,
  sample: Sequence[Any],
  zero_sizes: Sequence[int],
  num_server: int,
) -> Callable[..., list[tf.Tensor]]:
  """The program for clients like the one whose leaves are `sample`, for tracing."""
  layout = [
    None if isinstance(leaf, tf.Tensor) else (len(leaf.batches().full), leaf.batches().tail is not None)
    for leaf in sample
  ]
  kept_steps = [step for step in stage.clients if step.name in stage.keep]
  kept_types = [t for step in kept_steps for t in _leaf_types(step.type_spec)]

  def program(num_clients: tf.Tensor, *arguments: tf.Tensor) -> list[tf.Tensor]:
    server = arguments[:num_server]
    totals = arguments[num_server : num_server + sum(zero_sizes)]
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
        leaves.append(SymbolicBatches(full, low, high, tail))
      return leaves

    def run_client(k, totals):
      leaves, shared = iter(leaves_of(k)), iter(server)
      seen = _map_leaves(
        stage, env, lambda value: _refill(value[0], leaves), lambda _: next(shared), tracer
      )
      for step in stage.clients:
        seen[step.name] = step.function(seen)
      remaining = iter(totals)
      new_totals = []
      for a in stage.aggregations:
        before = sequences.pack(remaining, a.zero.type_spec)
        after = a.accumulate.function({blocks.ENGINE: tracer})([before, a.value.function(seen)])
        new_totals += sequences.flatten(after)
      new_totals = [tf.ensure_shape(t, s) for t, s in zip(new_totals, shapes, strict=True)]
      return new_totals, [t for step in kept_steps for t in sequences.flatten(seen[step.name])]

    if capacity == 1:
      totals, kept = run_client(0, totals)
      return [*totals, *(tf.expand_dims(t, 0) for t in kept)]

    def body(k, totals, kept):
      totals, values = run_client(k, totals)
      return k + 1, totals, [a.write(k, v) for a, v in zip(kept, values, strict=True)]

    kept = [
      tf.TensorArray(tf.as_dtype(t.dtype), capacity, element_shape=t.shape) for t in kept_types
    ]
    _, totals, kept = tf.while_loop(
      lambda k, *_: k < num_clients, body, (0, list(totals), kept), parallel_iterations=1
    )
    return [*totals, *(array.stack() for array in kept)]

  return program


def _refill(value: Any, leaves: Any) -> Any:
  """A client's value with its leaves replaced by the next of `leaves`."""
  return [_refill(item, leaves) for item in value] if isinstance(value, list) else next(leaves)
