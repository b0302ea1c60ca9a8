"""A Ray cluster, and the workers on it: started, lost, replaced, released."""

from collections.abc import Mapping
import contextlib
import importlib
import importlib.util
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import Any

import tensorflow as tf

# Ray's own name for a cluster that it starts.
_NEW_CLUSTER = 'local'
# With it Ray takes the loopback address for the node's, on which all of its servers then listen.
# Its name is of systems on which that is the default, and Ray's argument for the address turns
# 127.0.0.1 into one that others can reach.
_LOOPBACK_ONLY = 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'
_SENT_PREFIXES = ('TF_', 'XLA_', 'JAX_')


class WorkersLostError(RuntimeError):
  """No worker is left to run clients."""


def import_ray() -> Any:
  """Ray; raises ImportError that names the extra where it is not installed."""
  if importlib.util.find_spec('ray') is None:
    raise ImportError(
      'Computations on many machines need Ray, which is not installed. Install the extra `ray` of '
      'this package: pip install "tff-lowrank[ray]".'
    )
  return importlib.import_module('ray')


@contextlib.contextmanager
def _keeping_sigterm():
  """Ray replaces the handler of SIGTERM; inside, it is left as it is."""
  is_main = threading.current_thread() is threading.main_thread()
  before = signal.getsignal(signal.SIGTERM) if is_main else None
  try:
    yield
  finally:
    if is_main and before is not None:
      signal.signal(signal.SIGTERM, before)


def connect(address: str | None, num_cpus: int | None) -> bool:
  """Connects this process to a cluster.

  Args:
    address: Of a cluster, or `'auto'` for the one on this machine. None starts one, which listens
      on the loopback address only, has no dashboard, and ends with this process.
    num_cpus: How many CPU cores a new cluster says that it has; the machine's if None.

  Returns:
    Whether `disconnect` is to be called: false for a connection that was there already.

  Raises:
    RuntimeError: If this process is connected already and `address` is None.
    ConnectionError: If there is no such cluster.
  """
  os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
  if address is None and 'ray' not in sys.modules:
    with _environment({_LOOPBACK_ONLY: '0'}):
      import_ray()
  ray = import_ray()
  if ray.is_initialized():
    if address is None:
      raise RuntimeError(
        'This process is connected to a Ray cluster already. To run there, name it: '
        '`address="auto"`.'
      )
    return False
  logging.getLogger('ray').setLevel(logging.ERROR)  # It tells that it has started.
  common = dict(logging_level=logging.ERROR, log_to_driver=False)
  with _keeping_sigterm():
    if address is not None:
      ray.init(address=address, **common)
      return True
    with _environment({_LOOPBACK_ONLY: '0'}), _loopback_only(ray):
      ray.init(address=_NEW_CLUSTER, include_dashboard=False, num_cpus=num_cpus, **common)
  found = ray.util.get_node_ip_address()
  if found not in ('127.0.0.1', '::1'):
    ray.shutdown()
    raise RuntimeError(
      f'Ray {ray.__version__} bound the cluster that it started to {found}, where others could '
      'reach it, instead of the loopback address. Start a cluster yourself, and pass its address.'
    )
  return True


@contextlib.contextmanager
def _environment(values: Mapping[str, str]):
  """Inside, the environment has these values, unless it has others."""
  added = [name for name in values if name not in os.environ]
  os.environ.update({name: values[name] for name in added})
  try:
    yield
  finally:
    for name in added:
      os.environ.pop(name, None)


@contextlib.contextmanager
def _loopback_only(ray: Any):
  """Inside, what Ray read of the environment when it was imported is as `_LOOPBACK_ONLY` says."""
  constants = ray._private.ray_constants
  before = constants.ENABLE_RAY_CLUSTER
  constants.ENABLE_RAY_CLUSTER = False
  try:
    yield
  finally:
    constants.ENABLE_RAY_CLUSTER = before


def disconnect() -> None:
  """Ends the connection, and the cluster if this process started it."""
  with _keeping_sigterm():
    import_ray().shutdown()


def _fitting(nodes: list[dict[str, Any]], resources: Mapping[str, float]) -> int:
  """How many workers with these resources fit on the nodes."""
  return sum(
    min(int(node['Resources'].get(name, 0) / amount + 1e-9) for name, amount in resources.items())
    for node in nodes
    if node['Alive']
  )


def choose_workers(
  num_workers: int | None, resources: Mapping[str, float] | None
) -> tuple[int, dict[str, float]]:
  """How many workers, and what each needs; all that the cluster has room for if None.

  Raises ValueError if they do not fit on the cluster.
  """
  nodes = import_ray().nodes()
  if resources is None:
    has_gpu = any(node['Alive'] and node['Resources'].get('GPU') for node in nodes)
    resources = {'CPU': 1, 'GPU': 1} if has_gpu else {'CPU': 1}
  resources = {name: amount for name, amount in resources.items() if amount}
  fitting = _fitting(nodes, resources)
  if num_workers is None:
    num_workers = fitting
  if not 1 <= num_workers <= fitting:
    raise ValueError(
      f'`num_workers` must be from 1 to {fitting}, as many workers with {resources} as fit on the '
      f'cluster, found {num_workers}.'
    )
  return num_workers, resources


def cpus_for(num_workers: int | None, resources: Mapping[str, float] | None) -> int:
  """How many cores a new cluster must say that it has: the machine's, or more for more workers."""
  cores = (resources or {}).get('CPU', 1)
  return max(os.cpu_count() or 1, math.ceil((num_workers or 1) * cores))


def environment(gpu: float = 0) -> dict[str, str]:
  """What decides numbers in TensorFlow and XLA, for the processes of workers.

  TensorFlow's sums can depend on how many threads share an operation: there are as many as here,
  whatever the node has. `gpu` is the part of a GPU that each has, and so of its memory.
  """
  found = {n: v for n, v in os.environ.items() if n.startswith(_SENT_PREFIXES)}
  threads = tf.config.threading.get_intra_op_parallelism_threads()
  threads = threads or int(found.get('TF_NUM_INTRAOP_THREADS', 0)) or os.cpu_count() or 1
  if 0 < gpu < 1:
    found.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', f'{0.9 * gpu:.3f}')
  return found | {'TF_NUM_INTRAOP_THREADS': str(threads)}


def _actor_class(ray: Any) -> Any:
  """The class of workers' actors. It is sent whole, and imports TensorFlow only when it is made."""

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

  number: from 0; a replacement gets a new one.
  node, pid: the id of its node, and that of its process there.
  """

  def __init__(self, number: int, actor: Any, started: Any):
    self.number, self.actor, self.started = number, actor, started
    self.node, self.pid = '', 0

  def __str__(self) -> str:
    return f'worker {self.number} on node {self.node[:8]}'

  @property
  def places(self) -> tuple[Any, ...]:
    """Where it is, from near to far."""
    return (self.number, self.node)


class Pool:
  """The workers of a context. Several computations may share them."""

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
      num_workers: How many there are to be.
      resources: What each needs of the cluster.
      compile_mode: As in a local context.
      versions: What the versions of each must be.
      start_timeout: Seconds to wait for a worker where there is none.
    """
    self._ray = import_ray()
    self._wanted, self._compile_mode = num_workers, compile_mode
    self._versions, self._start_timeout = dict(versions), start_timeout
    options = dict(num_cpus=resources.get('CPU', 0), num_gpus=resources.get('GPU', 0))
    options['resources'] = {n: a for n, a in resources.items() if n not in ('CPU', 'GPU')}
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
    """Those that are alive, as far as is known."""
    with self._lock:
      return list(self._alive)

  def start(self) -> None:
    """Starts the workers that are missing, and waits for all of them.

    Raises RuntimeError if one does not start, or has other versions.
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
    """As `start`, after `release`; lost workers are `tend`'s to replace."""
    if self._is_released:
      self.start()

  def _fill(self) -> None:
    while len(self._alive) + len(self._starting) < self._wanted:
      actor = self._class.remote(environment(self._resources.get('GPU', 0)), self._compile_mode)
      self._starting.append(WorkerHandle(self._numbers, actor, actor.describe.remote()))
      self._numbers += 1

  def _collect(self, raises: bool = False) -> None:
    """Takes up the workers that have started."""
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
    """Replaces workers that were lost; raises WorkersLostError if none is left, and none comes."""
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
    return _fitting(self._ray.nodes(), self._resources) > 0

  def acquire(self) -> WorkerHandle | None:
    """A free worker, or None."""
    with self._lock:
      return self._free.pop(0) if self._free else None

  def give_back(self, worker: WorkerHandle) -> None:
    """A worker that was acquired is free again."""
    with self._lock:
      if worker in self._alive:
        self._free.append(worker)

  def lost(self, worker: WorkerHandle, reason: str) -> None:
    """A worker that has died, or must: it is ended, and replaced by the next `tend`."""
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
    """Ends all workers; `start` starts new ones."""
    with self._lock:
      workers = self._alive + self._starting
      self._alive, self._starting, self._free = [], [], []
      self._none_since, self._is_released = None, True
    if self._ray.is_initialized():
      for worker in workers:
        self._kill(worker)
