"""The Ray context: a local context whose clients run on a Ray cluster of many machines."""

from collections.abc import Callable, Mapping
import contextlib
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank.execution import client_datasets
from tff_lowrank.execution import cohort
from tff_lowrank.execution import context as context_lib
from tff_lowrank.execution import native
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import ray_cluster
from tff_lowrank.execution import ray_pool
from tff_lowrank.execution import sequences
from tff_lowrank.execution import stored
from tff_lowrank.execution import transport
from tff_lowrank.execution import values


class _OfClients(values.Converter):
  """Converts clients' arguments. Values stored on other machines, and descriptions, stay so."""

  def __init__(self, of_server: values.Converter):
    """`of_server`: converts other arguments. The two share their caches."""
    super().__init__()
    self._tensors, self._datasets = of_server._tensors, of_server._datasets

  def _tensor(self, value: Any, type_spec: tff.TensorType) -> Any:
    if not isinstance(value, stored.StoredArray):
      return super()._tensor(value, type_spec)
    is_right = value.dtype == type_spec.dtype and tf.TensorShape(
      type_spec.shape
    ).is_compatible_with(value.shape)
    if not is_right:
      raise TypeError(f'Expected a value of type {type_spec}, found {value!r}.')
    return value

  def _sequence(self, value: Any, type_spec: tff.SequenceType) -> Any:
    if isinstance(value, client_datasets.ClientDataset):
      return transport.Described(value, type_spec)
    return super()._sequence(value, type_spec)


class _Converter(values.Converter):
  """Converts arguments and results. Clients' values may be stored on other machines."""

  def __init__(self):
    super().__init__()
    self._of_clients = _OfClients(self)

  @property
  def of_clients(self) -> values.Converter:
    return self._of_clients

  def convert_out(self, value: Any, type_spec: tff.Type) -> Any:
    if isinstance(value, stored.StoredValue):
      leaves = iter(value.arrays)
      if not stored.do_client_values_stay():
        leaves = map(tf.convert_to_tensor, value.fetch())
      value = sequences.pack(leaves, type_spec)
    return super().convert_out(value, type_spec)

  def _array(self, tensor: Any) -> Any:
    return tensor if isinstance(tensor, stored.StoredArray) else super()._array(tensor)


class RayContext(context_lib.LocalContext):
  """Runs clients on the workers of a Ray cluster, and the rest in this process.

  See `create_ray_context`.
  """

  def __init__(self, pool: ray_pool.Pool, compile_mode: str, is_connection_own: bool):
    super().__init__(cohort.find_devices(None), compile_mode, 1)
    from tff_lowrank.execution import ray_store

    self._converter = _Converter()
    self._pool, self._is_connection_own = pool, is_connection_own
    self._shared = ray_store.Shared(pool)

  @property
  def traffic(self) -> Any:
    """The bytes that passed through this process so far; see `ray_store.Traffic`."""
    return self._shared.traffic

  @property
  def workers(self) -> list[ray_pool.WorkerHandle]:
    """The workers that are known to be alive."""
    return self._pool.workers

  @property
  def losses(self) -> int:
    """The number of workers lost so far."""
    return self._pool.num_losses

  def replace_lost_workers(self) -> None:
    """Starts new workers in place of lost ones, without waiting. Each computation does this too.

    Raises RuntimeError if no worker is left, and none could be started.
    """
    self._pool.tend()

  def invoke(self, comp: tff.Computation, arg: Any) -> Any:
    """As in a local context. Ctrl-C ends the workers; the next call starts new ones."""
    try:
      return super().invoke(comp, arg)
    except KeyboardInterrupt:
      self._pool.release()
      raise

  def _work(self, comp: tff.Computation, arg: Any) -> Callable[[], Any]:
    work = super()._work(comp, arg)
    if not stored.do_client_values_stay():
      return work

    def run() -> Any:
      with stored.client_values_stay():
        return work()

    return run

  def _block_runner(self) -> cohort.BlockRunner:
    from tff_lowrank.execution import ray_blocks

    return ray_blocks.Run(self._shared).run_blocks

  def _preparing(self, plan: plan_lib.Plan) -> contextlib.AbstractContextManager:
    return contextlib.nullcontext()  # Workers build the functions.

  def close(self) -> None:
    """Ends the workers, and the cluster if this context started it."""
    self._pool.release()
    if self._is_connection_own:
      ray_cluster.disconnect()

  def __exit__(self, *exception: Any) -> None:
    super().__exit__(*exception)
    self.close()


def create_ray_context(
  address: str | None = None,
  num_workers: int | None = None,
  resources_per_worker: Mapping[str, float] | None = None,
  compile: str = 'auto',
  start_timeout: float = 300.0,
) -> RayContext:
  """Creates a context that runs clients on the workers of a Ray cluster.

  Each worker is a process that runs clients as a local context does, on the resources that Ray
  gives it. On machines of one kind, results are bitwise equal to those of a local context. Make it
  the default with `set_ray_context`, or use it for a block of code with
  `with create_ray_context():`, which ends the workers.

  Args:
    address: Of a cluster, as in `ray.init`; `'auto'` is the cluster on this machine. None starts a
      cluster on this machine, which listens on the loopback address only.
    num_workers: The number of workers. None: as many as fit on the cluster.
    resources_per_worker: The resources of each, such as `{'CPU': 1, 'GPU': 0.5}`. None: one core,
      and one GPU if the cluster has GPUs.
    compile: As in `create_local_context`.
    start_timeout: How many seconds a worker may take to start.

  Raises:
    ImportError: If Ray is not installed.
    ConnectionError: If there is no cluster at `address`.
    ValueError: If the workers do not fit on the cluster.
    RuntimeError: If a worker does not start, or its packages have other versions than here.
  """
  checks.check_one_of('compile', compile, context_lib.COMPILE_MODES)
  if num_workers is not None:
    checks.check_at_least('num_workers', num_workers, 1)
  if (resources_per_worker or {}).get('GPU', 0) > 1:
    raise ValueError('A worker uses at most one GPU. Use more workers, with one GPU each.')
  native.check_not_forked()
  num_cpus = None
  if address is None:
    num_cpus = ray_cluster.cpus_for(num_workers, resources_per_worker)
  is_own = ray_cluster.connect(address, num_cpus)
  from tff_lowrank.execution import ray_worker  # It imports Ray.

  try:
    num_workers, resources = ray_cluster.choose_workers(num_workers, resources_per_worker)
    pool = ray_pool.Pool(num_workers, resources, compile, ray_worker.versions(), start_timeout)
    pool.start()
  except BaseException:
    if is_own:
      ray_cluster.disconnect()
    raise
  return RayContext(pool, compile, is_own)


def set_ray_context(
  address: str | None = None,
  num_workers: int | None = None,
  resources_per_worker: Mapping[str, float] | None = None,
  compile: str = 'auto',
  start_timeout: float = 300.0,
) -> RayContext:
  """Creates a Ray context, makes it the default, and returns it. See `create_ray_context`."""
  context = create_ray_context(address, num_workers, resources_per_worker, compile, start_timeout)
  tff.framework.set_default_context(context)
  return context
