"""Runs the stages of a plan for a cohort of clients."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import os
import threading
from typing import Any
import weakref

import grpc
import tensorflow as tf

from tff_lowrank.execution import block_results
from tff_lowrank.execution import blocks
from tff_lowrank.execution import device_memory
from tff_lowrank.execution import interruptible
from tff_lowrank.execution import native
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import sequences
from tff_lowrank.execution import xla

_NUM_BLOCKS = 4
_MAX_BLOCK = 32


class ClientError(RuntimeError, grpc.RpcError):
  """A client's part of a computation failed. The message names the client and the computation.

  It is an `RpcError` too, because programs for TFF's stock runtime catch that.
  """


class Device:
  """A device of TensorFlow, and jaxlib's device of the same name."""

  def __init__(self, name: str):
    kind, index = name.split(':')
    self.name = name
    self.is_cpu = kind == 'CPU'
    in_tensorflow = [d.name for d in tf.config.list_logical_devices(kind)]
    self.tensorflow = f'/device:{name}' if f'/device:{name}' in in_tensorflow else '/device:CPU:0'
    self._index = int(index)

  def xla(self) -> Any:
    """jaxlib's device, or None if jaxlib has no device of this kind."""
    found = native.xla_devices(self.name.split(':')[0].lower())
    return found[min(self._index, len(found) - 1)] if found else None

  @functools.cached_property
  def memory(self) -> device_memory.DeviceMemory | None:
    """Its memory, or None if jaxlib has no such device."""
    device = self.xla()
    is_shared = not self.is_cpu and self.tensorflow.endswith(self.name)
    return device and device_memory.DeviceMemory(device, self.tensorflow if is_shared else None)


def find_devices(names: Sequence[str] | None) -> list[Device]:
  """The devices with these names. None: all GPUs, or the CPU if there is none.

  Raises ValueError if there is no device of a name.
  """
  cpus = [d.name.removeprefix('/device:') for d in tf.config.list_logical_devices('CPU')]
  gpus = {d.name.removeprefix('/device:') for d in tf.config.list_logical_devices('GPU')}
  gpus |= {f'GPU:{i}' for i in range(len(native.xla_devices('gpu')))}
  if names is None:
    names = sorted(gpus) or ['CPU:0']
  unknown = [name for name in names if name not in gpus and name not in cpus]
  if unknown or not names:
    raise ValueError(f'`devices` must name some of {cpus + sorted(gpus)}, found {list(names)}.')
  return [Device(name) for name in names]


def default_clients_in_flight(devices: Sequence[Device]) -> int:
  """One client per device; if the only device is a CPU, one per core."""
  return os.cpu_count() or 1 if len(devices) == 1 and devices[0].is_cpu else len(devices)


def partition(num_clients: int, num_accelerators: int = 0) -> list[range]:
  """Splits the cohort into blocks. Each block is aggregated by itself.

  The blocks depend only on the number of clients and of accelerators, so sums do not depend on
  which device ran a block. An accelerator runs all its clients at once.
  """
  if num_accelerators:
    size = max(-(-num_clients // num_accelerators), 1)
    return [range(i, min(i + size, num_clients)) for i in range(0, num_clients, size)]
  size = min(max(-(-num_clients // _NUM_BLOCKS), 1), _MAX_BLOCK)
  return [range(i, min(i + size, num_clients)) for i in range(0, num_clients, size)]


@dataclasses.dataclass(frozen=True)
class StageJob:
  """The clients' part of a stage, to be run in blocks.

  plan, number: the plan, and the number of the stage in it.
  env: the values that the stage refers to.
  num_clients: of the whole cohort.
  description: of the computation, for error messages.
  """

  plan: plan_lib.Plan
  number: int
  env: blocks.Environment
  num_clients: int
  description: str

  @property
  def stage(self) -> plan_lib.Stage:
    return self.plan.stages[self.number]

  def blocks(self, num_accelerators: int = 0) -> list[range]:
    """The cohort in blocks. If partial aggregates cannot be merged, each block is one client."""
    if self.stage.can_merge:
      return partition(self.num_clients, num_accelerators)
    return [range(i, i + 1) for i in range(self.num_clients)]


# Runs the blocks of a stage, and yields their results in the order of the blocks.
BlockRunner = Callable[[StageJob], Iterator[block_results.BlockResult]]


def run_plan(
  plan: plan_lib.Plan,
  env: blocks.Environment,
  num_clients: int,
  description: str,
  run_blocks: BlockRunner,
) -> Any:
  """The result of `plan` with its parameter in `env`; `description` is for error messages."""
  for number, stage in enumerate(plan.stages):
    for step in stage.server:
      env[step.name] = step.function(env)
    if stage.clients or stage.aggregations:
      job = StageJob(plan, number, env, num_clients, description)
      env.update(block_results.collect(stage, env, num_clients, run_blocks(job)))
  return plan.result(env)


class CohortRunner:
  """Runs plans on `devices` in parallel. Only compiled programs are kept between runs."""

  def __init__(
    self,
    devices: Sequence[Device],
    compile_mode: str,
    max_clients_in_flight: int,
    precision: str = 'float32',
    deterministic: bool = True,
  ):
    self._devices = list(devices)
    self._compile_mode = compile_mode
    self._settings: dict[str, Any] = dict(precision=precision, deterministic=deterministic)
    self._workers = max_clients_in_flight
    self._programs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    self._lock = threading.Lock()

  @property
  def devices(self) -> Sequence[Device]:
    return self._devices

  def engine(self, stage: plan_lib.Stage, device: Device) -> tuple[xla.StagePrograms | None, str]:
    """The XLA programs of a stage on a device; or None, and the reason why TensorFlow runs it."""
    with self._lock:
      per_device = self._programs.setdefault(stage, {})
      if device.name not in per_device:
        per_device[device.name] = self._choose(stage, device)
      return per_device[device.name]

  def _choose(self, stage: plan_lib.Stage, device: Device) -> tuple[xla.StagePrograms | None, str]:
    if self._compile_mode == 'tensorflow':
      return None, "compile='tensorflow'"
    prefers_tensorflow = device.is_cpu and self._compile_mode == 'auto'
    reason = xla.reason_against(stage, prefers_tensorflow)
    if reason is not None:
      return None, reason
    if device.memory is None:
      return None, f'jaxlib has no device {device.name}'
    batched = not device.is_cpu
    return xla.StagePrograms(stage, device.memory, batched=batched, **self._settings), ''

  def run_blocks(self, job: StageJob) -> Iterator[block_results.BlockResult]:
    """Runs all blocks in threads, and yields their results in the order of the blocks."""
    naming = functools.partial(
      naming_client, num_clients=job.num_clients, description=job.description
    )
    run_block = lambda block, device: self.run_block(job.stage, job.env, block, device, naming)  # noqa: E731
    has_cpu = any(device.is_cpu for device in self._devices)
    return self._in_order(run_block, job.blocks(0 if has_cpu else len(self._devices)))

  def run_block(
    self,
    stage: plan_lib.Stage,
    env: blocks.Environment,
    clients: Sequence[int],
    device: Device,
    naming: Callable[[int], contextlib.AbstractContextManager],
  ) -> block_results.BlockResult:
    """Runs a block of clients on a device. Errors of a client occur inside `naming(client)`."""
    result = block_results.BlockResult()

    def run_clients(members: Iterable[int]) -> None:
      for client in members:
        with naming(client):
          self._run_client(stage, env, client, result)

    programs, _ = self.engine(stage, device) if stage.can_merge else (None, '')
    if programs is None:
      run_clients(clients)
      return result
    force = self._compile_mode == 'xla'
    groups = collections.deque(programs.groups(stage, env, clients, force, naming))
    while groups:
      group = groups.popleft()
      try:
        done = _run_group(programs, stage, env, group, result)
      except xla.TooManyClientsError as e:
        groups.extendleft(reversed(group.split(e.most)))
        continue
      if not done:
        run_clients(group.clients)
    return result

  def _run_client(
    self,
    stage: plan_lib.Stage,
    env: blocks.Environment,
    client: int,
    result: block_results.BlockResult,
  ) -> None:
    """Runs one client in TensorFlow."""
    view = lambda value: plan_lib.project(value, client)  # noqa: E731
    seen = plan_lib.environment_of(stage.uses, env, view, env[blocks.ENGINE])
    for step in stage.clients:
      seen[step.name] = step.function(seen)
    for a in stage.aggregations:
      value = a.value.function(seen)
      if stage.can_merge:
        partials = result.partials
        before = partials[a.name] if a.name in partials else a.zero.function(env)
        value = a.accumulate.function(env)([before, value])
      result.partials[a.name] = value
    result.kept[client] = {name: seen[name] for name in stage.keep}

  def _in_order(self, function: Callable[[Any, Device], Any], work: Sequence[Any]) -> Iterator[Any]:
    """Calls `function` for each item of `work`, on all devices; yields results in order.

    Only a few results are made before they are needed.
    """
    workers = max(min(self._workers, len(work)), 1)
    free = collections.deque(self._devices[i % len(self._devices)] for i in range(workers))

    def run(item: Any) -> Any:
      device = free.popleft()
      try:
        with tf.device(device.tensorflow):
          return function(item, device)
      finally:
        free.append(device)

    return interruptible.in_order(run, work, workers)


@contextlib.contextmanager
def naming_client(client: int, num_clients: int, description: str) -> Iterator[None]:
  """Inside, an error is raised as a `ClientError` that names the client."""
  try:
    yield
  except Exception as e:
    raise ClientError(
      f'Client {client + 1} of {num_clients} failed in the computation {description}: {e}'
    ) from e


def _run_group(
  programs: xla.StagePrograms,
  stage: plan_lib.Stage,
  env: blocks.Environment,
  group: xla.Group,
  result: block_results.BlockResult,
) -> bool:
  """Runs clients in one XLA program. Returns false if XLA cannot run them; nothing is done then.

  Raises TooManyClientsError if they do not fit in memory together.
  """
  zeros = [sequences.flatten(a.zero.function(env)) for a in stage.aggregations]
  done = programs.run(stage, env, group, zeros)
  if done is None:
    return False
  partials, kept = done
  for a, flat in zip(stage.aggregations, partials, strict=True):
    partial = sequences.pack(iter(flat), a.zero.type_spec)
    result.partials[a.name] = block_results.merged(a, env, result.partials.get(a.name), partial)
  steps = [step for step in stage.clients if step.name in stage.keep]
  for client, values in zip(group.clients, kept, strict=True):
    result.kept[client] = {
      step.name: sequences.pack(iter(flat), step.type_spec)
      for step, flat in zip(steps, values, strict=True)
    }
  return True
