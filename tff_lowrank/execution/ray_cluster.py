"""Starts or joins a Ray cluster, and counts the workers that fit on it."""

from collections.abc import Iterator, Mapping
import contextlib
import importlib
import importlib.util
import logging
import math
import os
import signal
import socket
import sys
import threading
from typing import Any

import tensorflow as tf

# With this address, Ray starts a cluster.
_NEW_CLUSTER = 'local'
# With this variable, Ray uses the loopback address for the node, and all its servers listen only
# there. (The name is of the systems on which this is the default.) Ray's argument for the node's
# address does not do it: it replaces 127.0.0.1 by an address that other machines can reach.
_LOOPBACK_ONLY = 'RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER'
_CONNECT_SECONDS = 10
_SENT_PREFIXES = ('TF_', 'XLA_', 'JAX_')


def import_ray() -> Any:
  """Ray. Raises ImportError, which names the extra to install, if it is not installed."""
  if importlib.util.find_spec('ray') is None:
    raise ImportError(
      'Computations on many machines need Ray, which is not installed. Install the extra `ray` of '
      'this package: pip install "tff-lowrank[ray]".'
    )
  return importlib.import_module('ray')


@contextlib.contextmanager
def _keeping_sigterm() -> Iterator[None]:
  """Inside, Ray does not replace the handler of SIGTERM."""
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
    address: Of a cluster, or `'auto'` for the one on this machine. None starts a new cluster, which
      listens on the loopback address only, has no dashboard, and ends with this process.
    num_cpus: The number of CPU cores that a new cluster reports. None: the machine's.

  Returns:
    Whether `disconnect` must be called: false if this process was connected already.

  Raises:
    RuntimeError: If this process is connected to a cluster, and `address` is None or another one.
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
    connected = ray.get_runtime_context().gcs_address
    if address not in ('auto', connected):
      raise RuntimeError(
        f'This process is connected to the Ray cluster at {connected}, and can be to no other one '
        f'at the same time, such as {address}.'
      )
    return False
  logging.getLogger('ray').setLevel(logging.ERROR)  # It logs that it has started.
  if address is not None:
    _check_answers(address)
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


def _check_answers(address: str) -> None:
  """Raises ConnectionError if nothing answers at `host:port`. Ray itself would wait for minutes."""
  if '://' in address:
    raise ValueError(
      f'`address` must be `auto` or host:port of a cluster that this machine is part of, found '
      f'{address!r}.'
    )
  host, colon, port = address.rpartition(':')
  if colon and port.isdigit():
    try:
      socket.create_connection((host.strip('[]'), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as e:
      raise ConnectionError(f'There is no Ray cluster at {address}: {e}.') from e


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
  """Inside, the environment has these values; existing variables keep theirs."""
  added = [name for name in values if name not in os.environ]
  os.environ.update({name: values[name] for name in added})
  try:
    yield
  finally:
    for name in added:
      os.environ.pop(name, None)


@contextlib.contextmanager
def _loopback_only(ray: Any) -> Iterator[None]:
  """Inside, Ray behaves as if `_LOOPBACK_ONLY` had been set when it was imported."""
  constants = ray._private.ray_constants
  before = constants.ENABLE_RAY_CLUSTER
  constants.ENABLE_RAY_CLUSTER = False
  try:
    yield
  finally:
    constants.ENABLE_RAY_CLUSTER = before


def disconnect() -> None:
  """Closes the connection, and stops the cluster if this process started it."""
  with _keeping_sigterm():
    import_ray().shutdown()


def num_fitting(nodes: list[dict[str, Any]], resources: Mapping[str, float]) -> int:
  """How many workers with these resources fit on the nodes."""
  return sum(
    min(int(node['Resources'].get(name, 0) / amount + 1e-9) for name, amount in resources.items())
    for node in nodes
    if node['Alive']
  )


def choose_workers(
  num_workers: int | None, resources: Mapping[str, float] | None
) -> tuple[int, dict[str, float]]:
  """The number of workers and the resources of each. None: as many workers as fit.

  Raises ValueError if they do not fit on the cluster.
  """
  nodes = import_ray().nodes()
  if resources is None:
    has_gpu = any(node['Alive'] and node['Resources'].get('GPU') for node in nodes)
    resources = {'CPU': 1, 'GPU': 1} if has_gpu else {'CPU': 1}
  resources = {name: amount for name, amount in resources.items() if amount}
  fitting = num_fitting(nodes, resources)
  if num_workers is None:
    num_workers = fitting
  if not 1 <= num_workers <= fitting:
    raise ValueError(
      f'`num_workers` must be from 1 to {fitting}, as many workers with {resources} as fit on the '
      f'cluster, found {num_workers}.'
    )
  return num_workers, resources


def cpus_for(num_workers: int | None, resources: Mapping[str, float] | None) -> int:
  """How many cores a new cluster must report: the machine's, or more if the workers need more."""
  cores = (resources or {}).get('CPU', 1)
  return max(os.cpu_count() or 1, math.ceil((num_workers or 1) * cores))


def environment(gpu: float = 0) -> dict[str, str]:
  """The environment variables of workers that affect numerical results in TensorFlow and XLA.

  TensorFlow's sums can depend on the number of threads of an operation. So workers use as many
  threads as this process, on any node. `gpu`: the fraction of a GPU, and its memory, per worker.
  """
  found = {n: v for n, v in os.environ.items() if n.startswith(_SENT_PREFIXES)}
  threads = tf.config.threading.get_intra_op_parallelism_threads()
  threads = threads or int(found.get('TF_NUM_INTRAOP_THREADS', 0)) or os.cpu_count() or 1
  if 0 < gpu < 1:
    found.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', f'{0.9 * gpu:.3f}')
  return found | {'TF_NUM_INTRAOP_THREADS': str(threads)}
