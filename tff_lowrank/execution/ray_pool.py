"""The workers on a Ray cluster: starts, replaces and ends them."""

from collections.abc import Mapping
import contextlib
import logging
import threading
import time
from typing import Any

from tff_lowrank.execution import ray_cluster


class WorkersLostError(ConnectionError):
  """No worker is left to run clients."""


def _actor_class(ray: Any) -> Any:
  """The class of the workers' actors. It is sent by value; its constructor imports TensorFlow."""

  class TffWorker:
    def __init__(self, environment, compile_mode):
      import os

      import ray

      os.environ.update(environment)
      if not ray.get_gpu_ids():
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
      from tff_lowrank.execution import ray_worker

      self._worker = ray_worker.Worker(compile_mode)

    def describe(self):
      return self._worker.describe()

    def run_block(self, request):
      found = self._worker.run_block(request)
      return found

    def fold(self, stage, *parts):
      return self._worker.fold(stage, *parts)

    @ray.method(concurrency_group='control')
    def copy(self, *stored):
      return self._worker.copy(*stored)

    @ray.method(concurrency_group='control')
    def cancel(self, run):
      self._worker.cancel(run)

    @ray.method(concurrency_group='control')
    def forget(self, plan):
      self._worker.forget(plan)

  return ray.remote(concurrency_groups={'control': 2})(TffWorker)


class WorkerHandle:
  """A worker.

  number: from 0; a replacement gets a new number.
  node, pid: the ids of its node and of its process.
  """

  def __init__(self, number: int, actor: Any, started: Any):
    self.number, self.actor, self.started = number, actor, started
    self.node, self.pid = '', 0

  def __str__(self) -> str:
    return f'worker {self.number} on node {self.node[:8]}'

  @property
  def places(self) -> tuple[Any, ...]:
    """Its places, from narrow to wide: where data for it may be."""
    return (self.number, self.node)


class Pool:
  """The workers of a context. Computations that run at the same time share them."""

  def __init__(
    self,
    num_workers: int,
    resources: Mapping[str, float],
    compile_mode: str,
    versions: Mapping[str, str],
    start_timeout: float,
  ):
    """Creates the pool; `start` starts its workers.

    Args:
      num_workers: The number of workers to start.
      resources: The resources of each worker.
      compile_mode: As in a local context.
      versions: The versions of packages that each worker must have.
      start_timeout: How many seconds to wait for a worker if there is none.
    """
    self._ray = ray_cluster.import_ray()
    self._wanted, self._compile_mode = num_workers, compile_mode
    self._versions, self._start_timeout = dict(versions), start_timeout
    options = dict(
      num_cpus=resources.get('CPU', 0),
      num_gpus=resources.get('GPU', 0),
      resources={n: a for n, a in resources.items() if n not in ('CPU', 'GPU')},
    )
    self._class = _actor_class(self._ray).options(scheduling_strategy='SPREAD', **options)
    self._resources = dict(resources)
    self._lock = threading.RLock()
    self._numbers = 0
    self._starting: list[WorkerHandle] = []
    self._alive: list[WorkerHandle] = []
    self._free: list[WorkerHandle] = []
    self._none_since: float | None = None
    self._is_released = True
    self._last_loss = ''
    self.num_losses = 0

  @property
  def num_alive(self) -> int:
    return len(self._alive)

  @property
  def workers(self) -> list[WorkerHandle]:
    """The workers that are known to be alive."""
    with self._lock:
      return list(self._alive)

  def start(self) -> None:
    """Starts the missing workers, and waits for all of them.

    Raises RuntimeError if one does not start, or has other versions of packages.
    """
    with self._lock:
      self._is_released = False
      self._fill()
      starting = list(self._starting)
    if not starting:
      return
    ready, late = self._ray.wait(
      [w.started for w in starting], num_returns=len(starting), timeout=self._start_timeout
    )
    del ready
    if late:
      self.release()
      raise WorkersLostError(
        f'{len(late)} of {len(starting)} workers did not start within {self._start_timeout:.0f} s.'
      )
    try:
      self._collect(raises=True)
    except BaseException:
      self.release()
      raise

  def start_if_released(self) -> None:
    """As `start`, but only after `release`. (`tend` replaces lost workers.)"""
    if self._is_released:
      self.start()

  def _fill(self) -> None:
    while len(self._alive) + len(self._starting) < self._wanted:
      actor = self._class.remote(
        ray_cluster.environment(self._resources.get('GPU', 0)), self._compile_mode
      )
      self._starting.append(WorkerHandle(self._numbers, actor, actor.describe.remote()))
      self._numbers += 1

  def _collect(self, raises: bool = False) -> None:
    """Adds the workers that have started."""
    with self._lock:
      if not self._starting:
        return
      by_reference = {w.started: w for w in self._starting}
      ready, _ = self._ray.wait(list(by_reference), num_returns=len(by_reference), timeout=0)
      for reference in ready:
        worker = by_reference[reference]
        self._starting.remove(worker)
        try:
          found = self._ray.get(reference)
          self._check(worker, found)
        except Exception as e:
          self._kill(worker)
          if raises:
            raise
          self._last_loss = str(e).splitlines()[0]
          logging.warning('Worker %d did not start: %s', worker.number, self._last_loss)
          continue
        worker.node, worker.pid = found['node'], found['pid']
        self._alive.append(worker)
        self._free.append(worker)

  def _check(self, worker: WorkerHandle, found: dict[str, Any]) -> None:
    names = sorted(self._versions.keys() | found['versions'].keys())
    here, there = ({n: v.get(n) for n in names} for v in (self._versions, found['versions']))
    differing = [f'{n} {there[n]} instead of {here[n]}' for n in names if here[n] != there[n]]
    if differing:
      raise RuntimeError(
        f'Worker {worker.number} on node {found["node"][:8]} is refused: it has '
        f'{", ".join(differing)}. All nodes must have the same packages as the program.'
      )

  def tend(self) -> None:
    """Replaces lost workers. Raises WorkersLostError if none is left and none can be started."""
    with self._lock:
      self._fill()
      self._collect()
      if self._alive:
        self._none_since = None
        return
      now = time.monotonic()
      self._none_since = self._none_since or now
      waited = now - self._none_since
      if waited < 5 or (waited < self._start_timeout and self._has_room()):
        return
    raise WorkersLostError(
      f'No worker is left, and none could be started within {waited:.0f} s. The last one was lost '
      f'because: {self._last_loss or "it was released"}'
    )

  def _has_room(self) -> bool:
    return ray_cluster.num_fitting(self._ray.nodes(), self._resources) > 0

  def acquire(self) -> WorkerHandle | None:
    """Takes a free worker; None if there is none."""
    with self._lock:
      return self._free.pop(0) if self._free else None

  def give_back(self, worker: WorkerHandle) -> None:
    """Frees a worker that was acquired."""
    with self._lock:
      if worker in self._alive:
        self._free.append(worker)

  def lost(self, worker: WorkerHandle, reason: str) -> None:
    """Ends a worker that has died or must not be used any more. The next `tend` replaces it."""
    with self._lock:
      if worker not in self._alive:
        return
      logging.warning('Lost %s: %s', worker, reason.splitlines()[0])
      self._last_loss = reason.splitlines()[0]
      self.num_losses += 1
      self._alive.remove(worker)
      if worker in self._free:
        self._free.remove(worker)
    self._kill(worker)

  def _kill(self, worker: WorkerHandle) -> None:
    with contextlib.suppress(Exception):
      self._ray.kill(worker.actor, no_restart=True)

  def release(self) -> None:
    """Ends all workers. `start` starts new ones."""
    with self._lock:
      workers = self._alive + self._starting
      self._alive, self._starting, self._free = [], [], []
      self._none_since, self._is_released = None, True
    if self._ray.is_initialized():
      for worker in workers:
        self._kill(worker)
