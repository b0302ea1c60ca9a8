"""The local context: compiles TFF computations once, and runs them in this process."""

import asyncio
from collections.abc import Callable, Sequence
import contextlib
import functools
import os
import threading
from typing import Any
import warnings
import weakref

import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank.execution import ahead
from tff_lowrank.execution import blocks
from tff_lowrank.execution import cohort
from tff_lowrank.execution import hlo
from tff_lowrank.execution import interruptible
from tff_lowrank.execution import loops
from tff_lowrank.execution import native
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import values

COMPILE_MODES = ('auto', 'tensorflow', 'xla')


def _call_dominant(computation: tff.Computation) -> tff.framework.ComputationBuildingBlock:
  """TFF's call-dominant form, without the intrinsics that have TensorFlow bodies."""
  # Replacing takes as long as all the rest, even if there is nothing to replace: so check first.
  if b'federated_secure' in tff.framework.serialize_computation(computation).SerializeToString():
    computation = tff.backends.test.replace_secure_intrinsics_with_bodies(computation)
  block, _ = tff.tensorflow.replace_intrinsics_with_bodies(computation.to_building_block())
  return tff.framework.to_call_dominant(block)


class LocalContext(tff.framework.SyncContext):
  """Runs TFF computations in this process; see `create_local_context`."""

  def __init__(
    self,
    devices: Sequence[cohort.Device],
    compile_mode: str,
    max_clients_in_flight: int,
    **settings: Any,
  ):
    self.runner = cohort.CohortRunner(devices, compile_mode, max_clients_in_flight, **settings)
    self._converter = values.Converter()
    self._plans: dict[int, tuple[weakref.ref, plan_lib.Plan]] = {}
    self._known: weakref.WeakSet[plan_lib.Plan] = weakref.WeakSet()  # Those that have run.
    self._lock = threading.Lock()

  def plan(self, computation: tff.Computation) -> plan_lib.Plan:
    """The plan of a computation. It is made once and kept."""
    key, table = id(computation), self._plans
    with self._lock:
      known = table.get(key)
      if known is None or known[0]() is not computation:
        reference = weakref.ref(computation, lambda _: table.pop(key, None))
        known = table[key] = (reference, plan_lib.Plan(_call_dominant(computation)))
      return known[1]

  def invoke(self, comp: tff.Computation, arg: Any) -> Any:
    """Runs `comp`. The result has NumPy arrays, and `tf.data.Dataset`s for sequences.

    Ctrl-C interrupts it at any time.
    """
    return interruptible.run(self._work(comp, arg))

  async def invoke_async(self, comp: tff.Computation, arg: Any) -> Any:
    """As `invoke`. It stops when the awaiting task is cancelled."""
    future, calls = interruptible.start(self._work(comp, arg))
    try:
      return await asyncio.wrap_future(future)
    except BaseException:
      calls.cancel()
      raise

  def _work(self, comp: tff.Computation, arg: Any) -> Callable[[], Any]:
    """A function that runs `comp`, to be called in another thread."""
    return functools.partial(self._run, comp, arg)

  def _run(self, comp: tff.Computation, arg: Any) -> Any:
    type_signature = comp.type_signature
    plan = self.plan(comp)
    env: blocks.Environment = {blocks.ENGINE: loops.Engine()}
    clients = None
    if type_signature.parameter is not None:
      clients = values.num_clients(arg, type_signature.parameter)
      assert plan.parameter is not None
      env[plan.parameter] = self._converter.convert_in(arg, type_signature.parameter)
    description = type_signature.compact_representation()[:200]
    with self._preparing(plan):
      result = cohort.run_plan(plan, env, clients or 0, description, self._block_runner())
    return self._converter.convert_out(result, type_signature.result)

  def _preparing(self, plan: plan_lib.Plan) -> contextlib.AbstractContextManager:
    """Inside, a plan that has not run yet is prepared."""
    with self._lock:
      is_new = plan not in self._known
      self._known.add(plan)
    return ahead.preparing(plan, self.runner) if is_new else contextlib.nullcontext()

  def _block_runner(self) -> cohort.BlockRunner:
    """Runs the blocks of clients of one run. Other contexts override this method."""
    return self.runner.run_blocks

  def installed(self) -> contextlib.AbstractContextManager:
    """Inside, computations of this thread run in this context."""
    return tff.framework.get_context_stack().install(self)

  def __enter__(self) -> 'LocalContext':
    self._installed = contextlib.ExitStack()
    self._installed.enter_context(self.installed())
    return self

  def __exit__(self, *exception: Any) -> None:
    self._installed.close()


def _no_executor(cardinalities: Any) -> Any:
  raise NotImplementedError('A local context runs computations itself, without executors.')


class AsyncLocalContext(tff.framework.AsyncExecutionContext):
  """A local context for `async` programs: several invocations can run at a time, in threads.

  It is a subclass of `AsyncExecutionContext` only because parts of `tff.program` require one.
  """

  def __init__(self, context: LocalContext):
    super().__init__(tff.framework.ResourceManagingExecutorFactory(_no_executor))
    self._context = context

  async def invoke(self, comp: tff.Computation, arg: Any) -> Any:
    if asyncio.iscoroutine(arg):
      arg = await arg
    return await self._context.invoke_async(comp, arg)


def _check_xla(devices: Sequence[cohort.Device], compile: str) -> None:
  """Raises ValueError if a device has no XLA; with `compile='auto'`, warns instead."""
  without = [device.name for device in devices if device.xla() is None]
  if not without:
    return
  reason = f'XLA is not available on {", ".join(without)}: jaxlib has no such device here'
  platforms = os.environ.get('JAX_PLATFORMS')
  if platforms:
    reason += f', or the environment variable JAX_PLATFORMS={platforms} excludes it'
  if compile == 'xla':
    raise ValueError(f"{reason}. Make XLA available, or pass `compile='tensorflow'`.")
  warnings.warn(f'{reason}. Clients run in TensorFlow there, which is slower.', stacklevel=3)


def create_local_context(
  devices: Sequence[str] | None = None,
  compile: str = 'auto',
  max_clients_in_flight: int | None = None,
  precision: str = 'float32',
  deterministic: bool = True,
) -> LocalContext:
  """Creates a context that runs TFF computations in this process.

  Make it the default with `set_local_context`, or use it for a block of code with
  `with create_local_context():`.

  Args:
    devices: Names of the devices that run clients, such as `'GPU:0'`. If None, all GPUs, or the
      CPU if there is none.
    compile: How clients' training loops run: `'tensorflow'`; `'xla'` where XLA can compile them;
      or `'auto'`, which chooses between the two by the operations in the loop.
    max_clients_in_flight: How many clients run at a time. If None, one per GPU, or one per CPU core
      if there is no GPU.
    precision: The precision of matrix products and convolutions of float32 in clients' XLA programs
      on a GPU: `'float32'`; `'tf32'`, the GPU's default, with a mantissa of 10 bits; or
      `'bfloat16'`, with 7 bits. Sums are in float32 in each case.
    deterministic: Whether XLA programs on a GPU give bitwise equal results in every run. If false,
      XLA chooses the fastest kernels by measurement, which may differ in another process.

  Raises:
    TypeError: If an argument has the wrong type.
    ValueError: If there is no such device, an argument is out of range, or `compile='xla'` and
      XLA is not available.
    RuntimeError: In a process that was forked after TensorFlow had started.
  """
  checks.check_one_of('compile', compile, COMPILE_MODES)
  checks.check_one_of('precision', precision, hlo.PRECISIONS)
  native.check_not_forked()
  found = cohort.find_devices(devices)
  if compile != 'tensorflow':
    _check_xla(found, compile)
  if max_clients_in_flight is None:
    max_clients_in_flight = cohort.default_clients_in_flight(found)
  checks.check_at_least('max_clients_in_flight', max_clients_in_flight, 1)
  settings: dict[str, Any] = dict(precision=precision, deterministic=deterministic)
  return LocalContext(found, compile, max_clients_in_flight, **settings)


def create_async_local_context(**settings: Any) -> AsyncLocalContext:
  """A local context for `tff.program.NativeFederatedContext` and `async` programs.

  Takes the arguments of `create_local_context`.
  """
  return AsyncLocalContext(create_local_context(**settings))


def set_local_context(
  devices: Sequence[str] | None = None,
  compile: str = 'auto',
  max_clients_in_flight: int | None = None,
  precision: str = 'float32',
  deterministic: bool = True,
) -> LocalContext:
  """Creates a local context, makes it the default, and returns it. See `create_local_context`."""
  context = create_local_context(devices, compile, max_clients_in_flight, precision, deterministic)
  tff.framework.set_default_context(context)
  return context
