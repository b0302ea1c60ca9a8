"""The XLA engine: runs the clients' parts of a round in one program for many clients.

In the part of a stage that one client runs, loops over data sets become loops over stacked batches.
TensorFlow's XLA compiler turns this part into HLO, and jaxlib's PJRT client compiles and runs it.
The program takes the concatenated batches of several clients, and the range of each client. It
loops over the clients and sums what is aggregated. So one compiled program can run clients with any
number of batches. A client whose last batch is smaller runs in a program compiled for that size.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import itertools
import logging
import threading
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import batched_program
from tff_lowrank.execution import blocks
from tff_lowrank.execution import device_memory
from tff_lowrank.execution import graphs
from tff_lowrank.execution import layout
from tff_lowrank.execution import native
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import xla_program

# Operations that XLA cannot run, or runs with other results.
_REFUSED_OPS = frozenset(['Assert', 'EagerPyFunc', 'Print', 'PrintV2', 'PyFunc', 'Timestamp'])
_REFUSED_PREFIXES = ('Multinomial', 'Parameterized', 'Random', 'Rng', 'Stateless', 'StatefulRandom')
_STATELESS_CONTROL_FLOW = frozenset(['StatelessCase', 'StatelessIf', 'StatelessWhile'])
# Operations that XLA runs many times slower on the CPU than TensorFlow, with oneDNN and Eigen.
_SLOW_ON_CPU = {
  ('Conv2D', 'Conv3D', 'DepthwiseConv2d'): 'convolutions',
  ('SelfAdjointEig', 'Svd'): 'decompositions of matrices',
}

# Fewer steps in total are not worth a compilation.
_MIN_STEPS = 16
# Each size of a smaller last batch needs its own program. Only for batches up to this size are they
# compiled.
_MAX_BATCH_WITH_TAIL = 64
# How many programs are compiled for the exact size of a cohort, before sizes are rounded up.
_MAX_EXACT = 8


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
    lambda t: (
      isinstance(t, tff.StructType)
      or (isinstance(t, tff.TensorType) and None not in (t.shape or ()))
    ),
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
    if (
      op_type in _REFUSED_OPS
      or 'Dataset' in op_type
      or 'Iterator' in op_type
      or (op_type.startswith(_REFUSED_PREFIXES) and op_type not in _STATELESS_CONTROL_FLOW)
    ):
      return f'the operation {op_type}'
    for prefixes, what in _SLOW_ON_CPU.items():
      if on_cpu and op_type.startswith(prefixes):
        return f'{what}, which TensorFlow runs faster on the CPU'
  return None


def _num_loops(stage: plan_lib.Stage) -> int:
  steps = [*stage.clients, *(a.value for a in stage.aggregations)]
  return sum(len(loops) for step in steps for graph in step.graphs for loops in graph.loops)


def _sequences(leaves: Sequence[Any]) -> list[Any]:
  return [leaf for leaf in leaves if not isinstance(leaf, tf.Tensor)]


def _key(leaves: Sequence[Any], num_loops: int) -> tuple[Any, ...] | None:
  """What must be equal for clients in one program; None for a client that XLA cannot run."""
  # A pass in memory can be used for one loop only, unless all passes are the same.
  if not all(s.is_repeatable or num_loops == 1 for s in _sequences(leaves)):
    return None
  if any(s.batches() is None for s in _sequences(leaves)):
    return None
  for sequence in _sequences(leaves):
    full, tail = sequence.batches().shapes
    if tail is not None and any(shape and shape[0] > _MAX_BATCH_WITH_TAIL for _, shape in full):
      return None
  return tuple(
    (leaf.dtype, tuple(leaf.shape)) if isinstance(leaf, tf.Tensor) else leaf.batches().shapes
    for leaf in leaves
  )


class TooManyClientsError(Exception):
  """A program would not fit in the device's memory. most: how many clients would fit."""

  def __init__(self, most: int):
    super().__init__(f'A program for more than {most} clients would not fit in memory.')
    self.most = most


@dataclasses.dataclass(frozen=True)
class Group:
  """The clients of one program.

  clients: their positions in the cohort.
  key: what is equal for all of them; None if XLA does not run them.
  leaves: for each client, the flattened values that differ between clients.
  """

  clients: list[int]
  key: Any
  leaves: list[list[Any]]

  def split(self, size: int) -> list['Group']:
    """The same clients in groups of at most `size`."""
    pieces = [slice(i, i + size) for i in range(0, len(self.clients), size)]
    return [Group(self.clients[p], self.key, self.leaves[p]) for p in pieces]


class StagePrograms:
  """The programs of one stage on one device. Each is compiled when it is first needed.

  They do not refer to the stage, so that they are freed with it.
  """

  def __init__(
    self,
    stage: plan_lib.Stage,
    memory: device_memory.DeviceMemory,
    batched: bool,
    precision: str = 'float32',
    deterministic: bool = True,
  ):
    """Creates the programs; nothing is compiled yet.

    Args:
      stage: The stage to run.
      memory: The memory of the device that runs it.
      batched: Whether to try programs in which each operation runs for all clients at once.
      precision: Of float32 products; one of `hlo.PRECISIONS`. If clients run one after the other,
        bfloat16 means float32.
      deterministic: Whether a GPU must give bitwise equal results in every run.
    """
    self._memory = memory
    self._precision, self._deterministic = precision, deterministic
    self._programs: dict[Any, native.XlaProgram | None] = {}
    self.batched = batched
    self._num_loops = _num_loops(stage)
    self._lock = threading.Lock()
    self._laid_out = layout.LaidOut(memory)
    self._most: dict[Any, int] = {}  # Key of clients -> how many fit in memory.
    self.failure: str | None = None
    self.failure_batched: str | None = None

  @property
  def compiled(self) -> list[native.XlaProgram]:
    return [program for program in list(self._programs.values()) if program is not None]

  @property
  def num_programs(self) -> int:
    """The number of programs compiled so far."""
    return len(self.compiled)

  def groups(
    self,
    stage: plan_lib.Stage,
    env: blocks.Environment,
    clients: Sequence[int],
    force: bool,
    naming: Callable[[int], contextlib.AbstractContextManager],
  ) -> list[Group]:
    """Splits clients into groups. A client's data is read inside `naming(client)`."""
    by_key: dict[Any, tuple[list[int], list[list[Any]]]] = {}
    for client in clients:
      leaves = xla_program.client_leaves(stage, env, client)
      with naming(client):
        key = None if self.failure else _key(leaves, self._num_loops)
      # Without batching, each client with a smaller last batch is a group, so that few programs
      # are needed.
      has_tail = key is not None and any(s.batches().tail is not None for s in _sequences(leaves))
      group = (key, client if has_tail and not self.batched else None)
      members, member_leaves = by_key.setdefault(group, ([], []))
      members.append(client)
      member_leaves.append(leaves)
    result = []
    for (key, _), (members, leaves) in by_key.items():
      if key is not None and not force:
        num_steps = sum(s.batches().num_steps for of_one in leaves for s in _sequences(of_one))
        key = key if num_steps >= _MIN_STEPS else None
      result.append(Group(members, key, leaves))
    return result

  def run(
    self,
    stage: plan_lib.Stage,
    env: blocks.Environment,
    group: Group,
    zeros: list[list[tf.Tensor]],
  ) -> tuple[list[list[tf.Tensor]], list[list[list[tf.Tensor]]]] | None:
    """Runs the clients of one group.

    Returns the flattened partial aggregates, and for each client the flattened values to keep. None
    if XLA does not run these clients.

    Raises TooManyClientsError if one program for all of them needs too much memory.
    """
    key, leaves = group.key, group.leaves
    if key is None:
      return None
    if len(leaves) > self._most.get(key, len(leaves)):
      raise TooManyClientsError(self._most[key])
    server = xla_program.server_leaves(stage, env)
    flat_zeros = [t for zero in zeros for t in zero]
    shared = tuple((t.dtype, tuple(t.shape)) for t in itertools.chain(server, flat_zeros))
    num_steps = layout.num_steps(leaves) if self.batched else None
    exact = layout.exact_signature(key, len(leaves), num_steps)
    if self.num_programs >= _MAX_EXACT and (exact, shared) not in self._programs:
      num_steps = None
    cohort = layout.cohort(key, leaves, self._laid_out, num_steps)
    signature = (cohort.signature, shared)
    with self._lock:
      if signature not in self._programs:
        program = self._compile(stage, env, cohort, leaves[0], server, flat_zeros)
        self._check_memory(key, program, len(leaves))
        self._programs[signature] = program
      program = self._programs[signature]
    if program is None:
      return None
    arguments = [np.int32(cohort.num_clients), *server, *flat_zeros, *cohort.arrays]
    results = iter(program([self._memory.put(a) for a in arguments]))
    partials = [[self._memory.tensor(next(results)) for _ in zero] for zero in zeros]
    kept_steps = [step for step in stage.clients if step.name in stage.keep]
    kept = [
      [
        self._memory.of_clients(next(results), cohort.num_clients)
        for _ in range(xla_program.num_leaves(step.type_spec))
      ]
      for step in kept_steps
    ]
    return partials, [
      [[leaf[i] for leaf in leaves] for leaves in kept] for i in range(cohort.num_clients)
    ]

  def _check_memory(self, key: Any, program: native.XlaProgram | None, num_clients: int) -> None:
    """Raises TooManyClientsError if a program does not fit."""
    if program is not None and program.num_bytes is not None:
      most = self._memory.most_clients(program.num_bytes, num_clients)
      if most < num_clients:
        self._most[key] = most
        raise TooManyClientsError(most)

  def _compile(
    self, stage: Any, env: Any, cohort: Any, sample: Any, server: Any, zeros: Any
  ) -> native.XlaProgram | None:
    part = xla_program.ClientPart(stage, env, sample)
    for batched in (True, False) if self.batched else (False,):
      try:
        if batched:
          program = batched_program.BatchedProgram(part, cohort, server, zeros, self._precision)
          module = program.lower(self._memory.device)
          return native.XlaProgram(
            module, self._memory.device, is_deterministic=self._deterministic
          )
        return self._one_after_the_other(part, cohort, server, zeros)
      except Exception as e:  # If XLA fails for any reason, TensorFlow runs it.
        failure = f'{type(e).__name__}: {str(e)[:300]}'
      if batched:
        self.batched, self.failure_batched = False, failure
      else:
        self.failure = failure
        logging.warning('XLA refused a program, so TensorFlow runs these clients: %s', failure)
    return None

  def _one_after_the_other(
    self, part: xla_program.ClientPart, cohort: Any, server: Any, zeros: Any
  ) -> native.XlaProgram:
    specs = [tf.TensorSpec([], tf.int32)]
    specs += [tf.TensorSpec(t.shape, t.dtype) for t in (*server, *zeros, *cohort.arrays)]
    run = xla_program.program(part, len(server), len(zeros))
    traced, handles = native.trace(run, specs)
    hlo = traced if self._precision == 'tf32' else traced.with_full_precision()
    captured = part.tracer.initial_values(handles)
    return native.XlaProgram(hlo.module, self._memory.device, captured, self._deterministic)
