"""Runs the blocks of a stage on the workers of a Ray cluster, also when workers are lost."""

import collections
from collections.abc import Callable, Iterator
import dataclasses
import time
from typing import Any
import uuid

import numpy as np

from tff_lowrank.execution import block_results
from tff_lowrank.execution import blocks
from tff_lowrank.execution import cohort
from tff_lowrank.execution import interruptible
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import ray_pool
from tff_lowrank.execution import ray_store
from tff_lowrank.execution import ray_worker
from tff_lowrank.execution import schedule as schedule_lib
from tff_lowrank.execution import sequences
from tff_lowrank.execution import stored
from tff_lowrank.execution import transport

# After so many workers were lost while they ran a block, the block fails.
_MAX_DEATHS = 4
_POLL_SECONDS = 0.05
_CANCEL_SECONDS = 5.0


class Run:
  """One run of a computation."""

  def __init__(self, shared: ray_store.Shared):
    self.shared, self.name = shared, uuid.uuid4().hex
    self.packer = transport.Packer(shared.ray.put, shared.known)

  def run_blocks(self, job: cohort.StageJob) -> Iterator[block_results.BlockResult]:
    """The results of the blocks of a stage; see `cohort.BlockRunner`."""
    self.shared.pool.start_if_released()
    self.shared.keep_two_copies()
    stage_run = _StageRun(self, job)
    try:
      yield from stage_run.results()
    finally:
      self.shared.traffic.sent += self.packer.num_bytes
      self.packer.num_bytes = 0
      stage_run.close()


@dataclasses.dataclass
class _Task:
  """A call of a worker.

  finish: called with the task when its first output is available, or the call has failed.
  outputs: references to its outputs; the first output is small.
  is_occupied: whether the worker can run nothing else during the call.
  """

  finish: Callable[['_Task'], None]
  worker: ray_pool.WorkerHandle
  outputs: list[Any]
  is_occupied: bool = True


@dataclasses.dataclass
class _Done:
  """A block that has run. values: the stored values, by client and then in order of their names."""

  block: int
  reply: ray_worker.BlockReply
  partials: Any
  values: list[ray_store.RayValue]


class _StageRun:
  """One stage of a run. It gives blocks to workers, and repeats those of lost workers or nodes."""

  def __init__(self, run: Run, job: cohort.StageJob):
    self._run, self._shared, self._job = run, run.shared, job
    self._ray, self._pool = run.shared.ray, run.shared.pool
    stage = job.stage
    self._slots: list[plan_lib.AtClients] = []
    self._request = ray_worker.StageRequest(
      run.name, self._shared.plan(job.plan), job.number, self._server(stage, job.env)
    )
    types = {step.name: step.type_spec for step in stage.clients}
    specs = {name: stored.specs_of(types[name]) for name in stage.keep}
    self._stored = {
      name: spec
      for name, spec in specs.items()
      if spec is not None and stored.num_bytes(spec) >= stored.MIN_BYTES
    }
    self._blocks = job.blocks()
    sizes = (stored.specs_of(a.zero.type_spec) or [] for a in stage.aggregations)
    window = self._shared.window(sum(map(stored.num_bytes, sizes)))
    self._schedule = schedule_lib.Schedule([self._about(b) for b in self._blocks], window)
    self._tree: schedule_lib.Tree | None = None
    if stage.can_merge and stage.aggregations and len(self._blocks) > block_results.FAN_IN:
      self._tree = schedule_lib.Tree(len(self._blocks))
    self._partials: dict[schedule_lib.Node, Any] = {}
    self._to_fold: collections.deque[schedule_lib.Node] = collections.deque()
    self._tasks: dict[Any, _Task] = {}
    self._done: dict[int, _Done] = {}
    self._following = 0  # The next block to yield.
    self._deaths: collections.Counter[int] = collections.Counter()

  def _server(self, stage: plan_lib.Stage, env: blocks.Environment) -> transport.Held:
    """Puts the values that all clients of the stage share, and that merging needs, in the store."""
    uses = stage.uses.union(
      *(part.uses for a in stage.aggregations for part in (a.zero, a.accumulate, a.merge))
    )
    whole = {name for name, index in uses if index is None}
    packed = []
    for name, index in sorted(uses, key=str):
      if index is None or name not in whole:
        value = env[name] if index is None else env[name][index]
        packed.append([name, index, self._run.packer.pack(value, self._slots)])
    return transport.Held((self._run.packer.put(packed),))

  @property
  def _merging(self) -> schedule_lib.Tree:
    assert self._tree is not None  # Used only if partial aggregates are merged.
    return self._tree

  def _about(self, clients: range) -> schedule_lib.Block:
    """An estimate of how long a block takes, and the places that have the data it needs."""
    homes: collections.Counter[Any] = collections.Counter()
    steps = 0
    for values in self._slots:
      for client in clients:
        for leaf in sequences.flatten(values[client]):
          if isinstance(leaf, stored.StoredArray):
            homes.update(leaf.value.places)
          elif isinstance(leaf, stored.StoredValue):
            homes.update(leaf.places)
          else:
            homes.update(self._shared.places_of(leaf))
            steps += self._steps(leaf)
    return schedule_lib.Block(steps, tuple(place for place, _ in homes.most_common(2)))

  def _steps(self, leaf: Any) -> int:
    if isinstance(leaf, transport.Described):
      return self._shared.num_steps(leaf.description)
    if not isinstance(leaf, sequences.Dataset):
      return 0
    if leaf.memo.batches is not None:
      return leaf.memo.batches.num_steps
    return max(int(leaf.as_dataset().cardinality()), 0)

  def results(self) -> Iterator[block_results.BlockResult]:
    """Yields the results as a `cohort.BlockRunner`; aggregates merged by workers come last."""
    while self._following < len(self._blocks):
      self._advance()
      while self._following in self._done:
        result = self._result(self._following)
        if result is None:
          break
        self._following += 1
        yield result
    if self._tree is not None:
      yield self._root()

  def _advance(self) -> None:
    """Gives work to free workers, and waits a short time for outputs."""
    interruptible.check_not_cancelled()
    self._pool.tend()
    self._hand_out()
    if not self._tasks:
      time.sleep(_POLL_SECONDS)
      return
    wait = self._ray.wait
    ready, _ = wait(list(self._tasks), num_returns=1, timeout=_POLL_SECONDS, fetch_local=False)
    if ready:
      waiting = list(self._tasks)
      ready, _ = wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
    for reference in ready:
      task = self._tasks.pop(reference)
      if task.is_occupied:
        self._pool.give_back(task.worker)
      task.finish(task)

  def _result(self, block: int) -> block_results.BlockResult | None:
    """The result of a block; None if it is lost, and the block runs again."""
    done = self._done.pop(block)
    result = block_results.BlockResult()
    if self._tree is None:
      try:
        result.partials = self._fetched(done.partials)
      except self._ray.exceptions.RayError:
        self._schedule.put_back(block)
        return None
      self._schedule.merged(block)
    names = tuple(self._stored)
    for i, client in enumerate(self._blocks[block]):
      kept = {name: transport.unpack_plain(value) for name, value in done.reply.kept[i].items()}
      values = done.values[i * len(names) : (i + 1) * len(names)]
      result.kept[client] = kept | dict(zip(names, values, strict=True))
    return result

  def _fetched(self, partials: Any) -> dict[str, Any]:
    found = self._ray.get(partials)
    arrays = (a for value in found.values() for a in sequences.flatten(value))
    self._shared.traffic.received += sum(np.asarray(a).nbytes for a in arrays)
    return {name: transport.unpack_plain(value) for name, value in found.items()}

  def _root(self) -> block_results.BlockResult:
    """The merge of all partial aggregates, made by workers."""
    result = block_results.BlockResult()
    result.level = self._merging.root[0]
    while True:
      while self._merging.root not in self._partials:
        self._advance()
      try:
        result.partials = self._fetched(self._partials[self._merging.root])
        return result
      except self._ray.exceptions.RayError:
        self._lose(self._merging.root)

  # Giving work to workers.

  def _hand_out(self) -> None:
    while (self._to_fold or not self._schedule.is_empty) and (worker := self._pool.acquire()):
      if self._to_fold:
        self._start_fold(worker, self._to_fold.popleft())
        continue
      block = self._schedule.take(worker.places)
      if block is None:
        self._pool.give_back(worker)
        return
      self._start_block(worker, block)

  def _start(self, task: _Task) -> None:
    self._tasks[task.outputs[0]] = task

  def _start_block(self, worker: ray_pool.WorkerHandle, block: int) -> None:
    clients = self._blocks[block]
    pack = self._run.packer.pack
    request = ray_worker.BlockRequest(
      self._request,
      [[pack(values[client]) for values in self._slots] for client in clients],
      clients.start,
      self._job.num_clients,
      self._job.description,
      tuple(self._stored),
    )
    count = 2 + len(clients) * len(self._stored)
    outputs = worker.actor.run_block.options(num_returns=count).remote(request)
    self._shared.traffic.blocks += 1
    self._start(_Task(lambda task: self._finish_block(task, block), worker, outputs))

  def _start_fold(self, worker: ray_pool.WorkerHandle, node: schedule_lib.Node) -> None:
    parts = [self._partials[child] for child in self._merging.children(node)]
    outputs = worker.actor.fold.options(num_returns=2).remote(self._request, *parts)
    self._start(_Task(lambda task: self._finish_fold(task, node), worker, outputs))

  def _start_copy(self, done: _Done, node: str) -> None:
    """Copies the stored values of a block from their node to another node, if there is one."""
    others = [w for w in self._pool.workers if w.node != node]
    if not done.values or not others:
      self._settle(done)
      return
    copier = others[done.block % len(others)]
    originals = [value.copies[0][0] for value in done.values]
    outputs = copier.actor.copy.options(num_returns=1 + len(originals)).remote(*originals)
    finish = lambda task: self._finish_copy(task, done, node)  # noqa: E731
    self._start(_Task(finish, copier, outputs, is_occupied=False))

  # Taking their outputs.

  def _outcome(self, task: _Task) -> tuple[Any, Exception | None]:
    """The first output of a task, and None; or None and the error by which it was lost."""
    errors = self._ray.exceptions
    try:
      return self._ray.get(task.outputs[0]), None
    except stored.LostError:
      raise
    except errors.ActorUnavailableError as e:
      self._pool.lost(task.worker, str(e))
      return None, e
    except errors.RayTaskError as e:
      if isinstance(e, errors.ObjectLostError):
        return None, e
      raise RuntimeError(f'{task.worker} failed: {e.cause!r}') from e
    except errors.ObjectLostError as e:
      return None, e
    except errors.RayError as e:
      self._pool.lost(task.worker, str(e))
      return None, e

  def _finish_block(self, task: _Task, block: int) -> None:
    reply, loss = self._outcome(task)
    if loss is not None:
      self._deaths[block] += 1
      if self._deaths[block] == _MAX_DEATHS:
        clients = self._blocks[block]
        raise ray_pool.WorkersLostError(
          f'{_MAX_DEATHS} workers were lost while they ran the clients {clients.start + 1} to '
          f'{clients.stop} of {self._job.num_clients}, in the computation '
          f'{self._job.description}. The last one: {str(loss).splitlines()[0]}'
        ) from loss
      self._schedule.put_back(block)
      return
    if reply.error is not None:
      raise _of_worker(ray_worker.unpickled_error(reply.error), task.worker)
    self._shared.note(self._slots, self._blocks[block], reply.steps, task.worker)
    specs = list(self._stored.values()) * len(self._blocks[block])
    values = [
      self._shared.value(spec, reference, task.worker)
      for spec, reference in zip(specs, task.outputs[2:], strict=True)
    ]
    self._start_copy(_Done(block, reply, task.outputs[1], values), task.worker.node)

  def _finish_copy(self, task: _Task, done: _Done, node: str) -> None:
    _, loss = self._outcome(task)
    if loss is None:
      for value, reference in zip(done.values, task.outputs[1:], strict=True):
        value.copies.append((reference, task.worker.node))
      self._settle(done)
    elif isinstance(loss, self._ray.exceptions.ObjectLostError):
      self._schedule.put_back(done.block)
    else:
      self._start_copy(done, node)

  def _settle(self, done: _Done) -> None:
    """Marks a block as done. It can run again if its result is lost later."""
    if done.block >= self._following:
      self._done[done.block] = done
    if self._tree is not None:
      self._add((0, done.block), done.partials)

  def _add(self, node: schedule_lib.Node, partials: Any) -> None:
    self._partials[node] = partials
    parent = self._merging.add(node)
    if parent is not None:
      self._to_fold.append(parent)

  def _finish_fold(self, task: _Task, node: schedule_lib.Node) -> None:
    _, loss = self._outcome(task)
    if loss is not None:
      if isinstance(loss, self._ray.exceptions.ObjectLostError):
        self._lose(node)
      else:
        self._to_fold.append(node)
      return
    for child in self._merging.children(node):
      del self._partials[child]
      self._merging.remove(child)
    if node[0] == 1:
      for block in self._merging.blocks(node):
        self._schedule.merged(block)
    self._add(node, task.outputs[1])

  def _lose(self, node: schedule_lib.Node) -> None:
    """Partial aggregates below `node` are lost: puts its blocks back, to run again."""
    nodes = [node]
    while nodes:
      lost = nodes.pop()
      self._partials.pop(lost, None)
      self._merging.remove(lost)
      if lost[0] == 0:
        self._schedule.put_back(lost[1])
      else:
        nodes += self._merging.children(lost)

  def close(self) -> None:
    """Cancels calls that still run. A worker that does not stop counts as lost."""
    occupied = [task for task in self._tasks.values() if task.is_occupied]
    self._tasks = {}
    if not occupied or not self._ray.is_initialized():
      return
    for task in occupied:
      try:
        task.worker.actor.cancel.remote(self._run.name)
      except self._ray.exceptions.RayError:
        self._pool.lost(task.worker, 'It did not answer.')
    by_reference = {task.outputs[0]: task for task in occupied}
    ready, late = self._ray.wait(
      list(by_reference), num_returns=len(by_reference), timeout=_CANCEL_SECONDS, fetch_local=False
    )
    for reference in ready:
      self._pool.give_back(by_reference[reference].worker)
    for reference in late:
      self._pool.lost(by_reference[reference].worker, 'It did not stop when it was told to.')


def _of_worker(error: Exception, worker: ray_pool.WorkerHandle) -> Exception:
  """The error of a client, with the worker on which it ran."""
  if not isinstance(error, cohort.ClientError):
    return error
  named = cohort.ClientError(f'{error} (It ran on {worker}.)')
  named.__cause__ = error.__cause__
  return named
