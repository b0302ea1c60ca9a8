"""The worker's side: runs blocks of clients on the devices of its process."""

import collections
from collections.abc import Sequence
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import os
import pathlib
import pickle
import platform
import threading
import time
from typing import Any

import numpy as np
import ray
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import blocks
from tff_lowrank.execution import cohort
from tff_lowrank.execution import interruptible
from tff_lowrank.execution import loops
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import stored
from tff_lowrank.execution import transport
from tff_lowrank.execution import values

_PACKAGES = ('jaxlib', 'numpy', 'ray', 'tensorflow', 'tensorflow-federated')


def versions() -> dict[str, str]:
  """The versions that must be equal in all processes, by package."""
  found = dict(python=platform.python_version(), machine=platform.machine())
  for name in _PACKAGES:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      found[name] = importlib.metadata.version(name)
  sources = hashlib.sha256()
  package = pathlib.Path(__file__).parents[1]
  for path in sorted(package.rglob('*.py')):
    sources.update(str(path.relative_to(package)).encode() + path.read_bytes())
  return found | {'tff_lowrank (its sources)': sources.hexdigest()[:12]}


@dataclasses.dataclass(frozen=True)
class StageRequest:
  """A stage of a run.

  run: the id of the computation's run.
  plan: the plan's serialised building block; it identifies the plan.
  number: the number of the stage in the plan.
  server: the values that all clients share, as `[name, index or None, packed value]` each.
  """

  run: str
  plan: transport.Held
  number: int
  server: transport.Held


@dataclasses.dataclass(frozen=True)
class BlockRequest:
  """A block to run.

  clients: for each client, the packed values for the slots in the stage's values.
  first: the position in the cohort of its first client.
  num_clients, description: as in `cohort.StageJob`.
  stored: the names of the kept values that are stored instead of sent.
  """

  stage: StageRequest
  clients: list[list[Any]]
  first: int
  num_clients: int
  description: str
  stored: tuple[str, ...]


@dataclasses.dataclass
class BlockReply:
  """The small part of a block's result, which is sent to the driver.

  kept: for each client, the packed values to keep that are not stored, by name.
  steps: for each client, the number of batches of the data set opened here, or None.
  seconds: how long the block took.
  error: the pickled error, or None.
  """

  kept: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  steps: list[int | None] = dataclasses.field(default_factory=list)
  seconds: float = 0.0
  error: bytes | None = None


def _get(held: Sequence[transport.Held]) -> list[Any]:
  """The packed values in the store. Of several copies, any that exists is used."""
  try:
    return ray.get([h.references[0] for h in held])
  except (ray.exceptions.ObjectLostError, ray.exceptions.RayActorError):
    return [_get_any(h) for h in held]


def _get_any(held: transport.Held) -> Any:
  for reference in held.references:
    with contextlib.suppress(ray.exceptions.ObjectLostError, ray.exceptions.RayActorError):
      return ray.get(reference)
  raise stored.LostError('An object is lost: all nodes that had a copy of it are gone.')


class Worker:
  """Runs blocks, one at a time. Other calls are possible during a block."""

  def __init__(self, compile_mode: str):
    self._device = cohort.find_devices(None)[0]
    self._runner = cohort.CohortRunner([self._device], compile_mode, 1)
    self._unpacker = transport.Unpacker(_get)
    self._converter = values.Converter()
    self._plans: dict[Any, plan_lib.Plan] = {}
    self._servers: collections.OrderedDict[Any, blocks.Environment] = collections.OrderedDict()
    self._lock = threading.Lock()
    self._cancelled: collections.deque[str] = collections.deque(maxlen=64)
    self._running: tuple[str, Any] | None = None

  def describe(self) -> dict[str, Any]:
    """The versions, device and id of this process, and its node."""
    node = ray.get_runtime_context().get_node_id()
    return dict(versions=versions(), device=self._device.name, pid=os.getpid(), node=node)

  def run_block(self, request: BlockRequest) -> tuple[Any, ...]:
    """Runs a block.

    Returns the `BlockReply`, the packed partial aggregates by name, and then, for each client, each
    stored value as a list of arrays.
    """
    start = time.monotonic()
    nothing = [None] * (1 + len(request.clients) * len(request.stored))
    plan, env, clients = self._prepared(request)
    future, calls = interruptible.start(
      functools.partial(self._run_block, request, plan.stages[request.stage.number], env, clients)
    )
    with self._lock:
      self._running = (request.stage.run, calls)
      if request.stage.run in self._cancelled:
        calls.cancel()
    try:
      reply, *rest = future.result()
    except Exception as e:
      return BlockReply(error=_pickled(e)), *nothing
    finally:
      self._running = None
    reply.seconds = time.monotonic() - start
    return reply, *rest

  def _prepared(self, request: BlockRequest) -> tuple[plan_lib.Plan, dict, list[list[Any]]]:
    plan, server = self._stage(request.stage)
    return plan, dict(server), self._unpacker.unpack(request.clients)

  def _stage(self, stage: StageRequest) -> tuple[plan_lib.Plan, blocks.Environment]:
    """The plan, and the values that the stage's clients share."""
    if stage.plan not in self._plans:
      (proto,) = _get([stage.plan])
      block = tff.framework.ComputationBuildingBlock.from_proto(proto)
      self._plans[stage.plan] = plan_lib.Plan(block)
    if stage.server not in self._servers:
      (packed,) = _get([stage.server])
      unpacked = self._unpacker.unpack([value for _, _, value in packed])
      env: blocks.Environment = {blocks.ENGINE: loops.Engine()}
      for (name, index, _), value in zip(packed, unpacked, strict=True):
        if index is None:
          env[name] = value
        else:
          items = env.setdefault(name, [])
          items += [None] * (index + 1 - len(items))
          items[index] = value
      self._servers[stage.server] = env
      while len(self._servers) > 2:
        self._servers.popitem(last=False)
    return self._plans[stage.plan], self._servers[stage.server]

  def _run_block(
    self,
    request: BlockRequest,
    stage: plan_lib.Stage,
    env: blocks.Environment,
    clients: list[list[Any]],
  ) -> tuple[Any, ...]:
    def naming(client: int) -> contextlib.AbstractContextManager:
      return cohort.naming_client(request.first + client, request.num_clients, request.description)

    reply = BlockReply()
    for client, of_client in enumerate(clients):
      with naming(client):
        clients[client], steps = self._opened(of_client)
        reply.steps.append(steps)
    at_clients = [plan_lib.AtClients(values) for values in zip(*clients, strict=True)]
    env = {name: _filled(value, at_clients) for name, value in env.items()}
    with tf.device(self._device.tensorflow):
      result = self._runner.run_block(stage, env, range(len(clients)), self._device, naming)
    outputs = []
    for client in range(len(clients)):
      kept = result.kept[client]
      reply.kept.append(
        {name: transport.plain(v) for name, v in kept.items() if name not in request.stored}
      )
      outputs += [_arrays(kept[name]) for name in request.stored]
    partials = {name: transport.plain(value) for name, value in result.partials.items()}
    return reply, partials, *outputs

  def _opened(self, value: Any) -> tuple[Any, int | None]:
    """`value` with its data sets opened, and their number of batches, if known."""
    if isinstance(value, list):
      opened = [self._opened(item) for item in value]
      steps = [count for _, count in opened if count is not None]
      return [item for item, _ in opened], sum(steps) if steps else None
    if not isinstance(value, transport.Described):
      return value, None
    sequence = self._converter.convert_in(value.description, value.type_spec)
    cardinality = int(sequence.as_dataset().cardinality())
    return sequence, cardinality if cardinality >= 0 else None

  def fold(self, stage: StageRequest, *parts: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """Merges partial aggregates, packed by name, in their order. The first output is small."""
    plan, env = self._stage(stage)
    result = {}
    for a in plan.stages[stage.number].aggregations:
      total = None
      for part in parts:
        value = self._unpacker.unpack(part[a.name])
        total = value if total is None else a.merge.function(env)([total, value])
      result[a.name] = transport.plain(total)
    return None, result

  def copy(self, *originals: Any) -> tuple[Any, ...]:
    """Copies stored values to this node. The first output is small."""
    return None, *originals

  def cancel(self, run: str) -> None:
    """Cancels the calls of a run, and those that arrive later."""
    with self._lock:
      self._cancelled.append(run)
      if self._running is not None and self._running[0] == run:
        self._running[1].cancel()

  def forget(self, plan: transport.Held) -> None:
    """Drops a plan that is not needed any more."""
    self._plans.pop(plan, None)


def _filled(value: Any, at_clients: list[plan_lib.AtClients]) -> Any:
  """`value` with clients' values in its slots."""
  if isinstance(value, transport.AtClientsSlot):
    return at_clients[value.number]
  return [_filled(item, at_clients) for item in value] if isinstance(value, list) else value


def _arrays(value: Any) -> list[np.ndarray]:
  if isinstance(value, list):
    return [array for item in value for array in _arrays(item)]
  return [np.asarray(value)]


def _pickled(error: Exception) -> bytes:
  """The pickled error and its cause; an error that cannot be pickled is sent as text."""
  causes: list[BaseException] = [error]
  while (cause := causes[-1].__cause__) is not None:
    causes.append(cause)
  found = []
  for cause in causes:
    try:
      pickle.loads(pickled := pickle.dumps(cause))
    except Exception:
      pickled = pickle.dumps(RuntimeError(f'{type(cause).__name__}: {cause}'))
    found.append(pickled)
  return pickle.dumps(found)


def unpickled_error(pickled: bytes) -> Exception:
  """The error in `BlockReply.error`, with its cause."""
  errors = [pickle.loads(one) for one in pickle.loads(pickled)]
  for error, cause in itertools.pairwise(errors):
    error.__cause__ = cause
  return errors[0]
