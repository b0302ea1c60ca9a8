"""All uses of other packages' private modules in this folder, each with its reason."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import itertools
import logging
import os
from typing import Any, NamedTuple
import weakref

import numpy as np
import tensorflow as tf

# The type of an element's components.
from tensorflow.python.data.util import structure

# Only private modules of TensorFlow can cancel an operation of one thread. The public way, a
# context manager around calls of functions, is shared by all threads.
from tensorflow.python.eager import cancellation

# Registers the functions of a graph's library with TensorFlow's runtime.
from tensorflow.python.eager import context as eager_context
from tensorflow.python.eager import execute

# Looks up the definition of an operation by its name.
from tensorflow.python.framework import op_def_registry

# Only private modules of TFF and TensorFlow can run Grappler on a graph. It is used to inline
# functions, so that loops over data sets are in the top-level graph.
from tensorflow_federated.python.core.environments.tensorflow_backend import graph_optimizations
from tensorflow_federated.python.core.environments.tensorflow_backend import graph_spec

# Checks a value against a `tff.TensorType`, with the error messages of TFF's stock context.
from tensorflow_federated.python.core.impl.compiler import array as tff_array

# TFF's context in a thread in which none was set.
from tensorflow_federated.python.core.impl.context_stack import runtime_error_context

# These convert a Python list to a data set, and a data set's elements to the containers of a TFF
# type, as in the stock context.
from tensorflow_federated.python.core.impl.utils import tensorflow_utils

from tff_lowrank import exported
from tff_lowrank.execution import hlo_types

is_compatible_dtype = tff_array.is_compatible_dtype
is_compatible_shape = tff_array.is_compatible_shape
make_dataset_from_elements = tensorflow_utils.make_data_set_from_elements
coerce_dataset_elements = tensorflow_utils.coerce_dataset_elements_to_tff_type_spec


_NO_CONTEXT = (
  'No execution context is set in this thread. TFF keeps one for each thread: call '
  '`tff_lowrank.execution.set_local_context()` in this one, or run inside '
  '`with tff_lowrank.execution.create_local_context():`.'
)


def _refuse(self: Any, comp: Any, arg: Any) -> None:
  raise RuntimeError(_NO_CONTEXT)


# Replaces TFF's error message, which is for TFF's developers.
runtime_error_context.RuntimeErrorContext.invoke = _refuse

_is_forked = False


def _note_fork() -> None:
  global _is_forked
  _is_forked = eager_context.context()._context_handle is not None


os.register_at_fork(after_in_child=_note_fork)


def check_not_forked() -> None:
  """Raises RuntimeError in a child process that was forked after TensorFlow had started."""
  if _is_forked:
    raise RuntimeError(
      'A `tff_lowrank.execution` context cannot run in a process that was forked after TensorFlow '
      'had started: a fork does not copy its threads. Start processes with '
      "`multiprocessing.get_context('spawn')`, and set a context in each."
    )


def is_stateful_op(name: str) -> bool:
  """Whether an operation has side effects or state; true for unknown operations."""
  op_def = op_def_registry.get(name)
  return op_def is None or op_def.is_stateful


def inline_functions(
  graph_def: tf.compat.v1.GraphDef, feeds: Sequence[str], fetches: Sequence[str], init_op: str
) -> tf.compat.v1.GraphDef:
  """`graph_def` with the functions that it calls inlined, control flow kept as functions."""
  for node in list(graph_def.node) + [n for f in graph_def.library.function for n in f.node_def]:
    # Otherwise inlining turns `While` and `If` into switches and merges, which XLA cannot compile.
    if '_lower_using_switch_merge' in node.attr:
      node.attr['_lower_using_switch_merge'].b = False
  config = tf.compat.v1.ConfigProto()
  rewrites = config.graph_options.rewrite_options
  rewrites.min_graph_nodes = -1
  rewrites.optimizers.append('function')
  rewrites.function_optimization = rewrites.AGGRESSIVE
  spec = graph_spec.GraphSpec(
    graph_def, init_op=init_op or None, in_names=list(feeds), out_names=list(fetches)
  )
  return graph_optimizations.optimize_graph_spec(spec, config).graph_def


def without_memory_optimizer(config: bytes) -> bytes:
  """A serialised `ConfigProto` with Grappler's memory optimizer off.

  The optimizer uses temporary variables for large sums, with the same name in all calls of a
  function. In eager mode all calls share one container of variables, so two threads that run the
  same function would overwrite each other's. TensorFlow has no public option to turn it off.
  """
  proto = tf.compat.v1.ConfigProto.FromString(config)
  rewrites = proto.graph_options.rewrite_options
  rewrites.memory_optimization = rewrites.NO_MEM_OPT
  return proto.SerializeToString(deterministic=True)


class Calls:
  """The TensorFlow calls of one computation's threads. Any thread can cancel them.

  Functions run without Grappler's memory optimizer, so several threads may run the same one.

  reason: the error because of which they were cancelled, or None.
  """

  def __init__(self) -> None:
    self.reason: BaseException | None = None
    self._context = eager_context.context()
    self._manager = cancellation.CancellationManager()
    options = self._context.function_call_options.as_attrs()
    options['config_proto'] = without_memory_optimizer(options['config_proto'])
    self._function_attributes = tuple(itertools.chain(*options.items()))

  @property
  def is_cancelled(self) -> bool:
    return self._manager.is_cancelled

  def cancel(self, reason: BaseException | None = None) -> None:
    """Ends all running calls, and later ones, with a `tf.errors.CancelledError`."""
    self.reason = self.reason or reason
    self._manager.start_cancel()

  def _call(self, function: Any, arguments: Sequence[Any], manager: Any) -> list[tf.Tensor]:
    inputs = [*tf.nest.flatten(arguments), *function.captured_inputs]
    count, attributes = len(function.outputs), self._function_attributes
    return execute.execute_with_cancellation(
      function.name, count, inputs, attributes, self._context, manager
    )

  def function(self, function: Any, arguments: Sequence[Any]) -> list[tf.Tensor]:
    """The flat results of a concrete function. Arguments are tensors or lists of tensors."""
    return self._call(function, arguments, self._manager)

  def prepare(self, function: Any, arguments: Sequence[Any] | None) -> bool:
    """Has TensorFlow optimize a concrete function before its first call, and says if it has.

    The first call would do it, and so would each of two that meet. It is done even by a call that
    is cancelled before it runs. TensorFlow looks at the dtypes of `arguments` only, but for
    handles; None stands for any where there are none.
    """
    if arguments is None:
      inputs = function.inputs[: len(function.inputs) - len(function.captured_inputs)]
      if any(t.dtype in (tf.resource, tf.variant) for t in inputs):
        return False
      arguments = [tf.zeros([], t.dtype) for t in inputs]
    cancelled = cancellation.CancellationManager()
    cancelled.start_cancel()
    with contextlib.suppress(tf.errors.OpError):  # The call itself says what is wrong.
      self._call(function, arguments, cancelled)
    return True

  def elements(self, dataset: tf.data.Dataset) -> Iterator[Any]:
    """The elements of a data set. TensorFlow's own iterator cannot be cancelled."""
    iterator = iter(dataset)
    types = [dtype.as_datatype_enum for dtype in iterator._flat_output_types]
    shapes = [execute.make_shape(shape, 'shape') for shape in iterator._flat_output_shapes]
    attributes = ('output_types', types, 'output_shapes', shapes)
    inputs = [iterator._iterator_resource]
    while True:
      try:
        components = execute.execute_with_cancellation(
          'IteratorGetNext', len(types), inputs, attributes, self._context, self._manager
        )
      except tf.errors.OutOfRangeError:
        if self.is_cancelled:  # Some data sets then end as if at their last element.
          raise tf.errors.CancelledError(None, None, 'Reading a data set was cancelled.') from None
        return
      yield structure.from_compatible_tensor_list(dataset.element_spec, components)


def register_functions(owner: Any, library: Any) -> None:
  """Registers the functions of a graph's library with TensorFlow for the lifetime of `owner`."""
  context = eager_context.context()
  for function in library.function:
    context.add_function_def(function)
    weakref.finalize(owner, _remove_function, function.signature.name)


def _remove_function(name: str) -> None:
  if eager_context.context().has_function(name):
    eager_context.context().remove_function(name)


def dataset_inputs(dataset: tf.data.Dataset) -> Sequence[tf.data.Dataset]:
  """The data sets that `dataset` was made from, a private method in TensorFlow."""
  return dataset._inputs()


def map_function(dataset: tf.data.Dataset) -> Any:
  """The concrete function of a data set made by `map` or `filter`, or None."""
  for name in ('_map_func', '_predicate'):
    wrapper = getattr(dataset, name, None)
    if wrapper is not None:
      return wrapper.function
  return None


def xla_devices(kind: str) -> list[Any]:
  """jaxlib's devices of a kind, `'cpu'` or `'gpu'`; empty without such devices or jaxlib."""
  # Imported only when XLA is used. GPU memory is allocated as needed.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  try:
    from jax._src import xla_bridge

    # jax logs which kinds of devices it does not find.
    logging.getLogger(xla_bridge.__name__).setLevel(logging.WARNING)
    return xla_bridge.get_backend(kind).local_devices()
  except (ImportError, RuntimeError):
    return []


def memory_bytes(device: Any) -> int | None:
  """The memory of a device that jaxlib may use; None if unknown, as for the CPU."""
  stats = device.memory_stats() if device.platform != 'cpu' else None
  return stats.get('bytes_limit') if stats else None


def put(array: np.ndarray | np.generic, device: Any) -> Any:
  """`array` as jaxlib's buffer on a device. On the CPU they share memory."""
  return device.client.buffer_from_pyval(array, device)


class Traced(NamedTuple):
  """A `tf.function` compiled to HLO, XLA's input.

  hlo: a serialised `HloModuleProto`. Its parameters are the arguments, then the variables.
  """

  hlo: bytes

  def with_full_precision(self) -> 'Traced':
    """The same program with the full precision of float32 in products."""
    return Traced(hlo_types.with_full_precision(self.hlo))

  @property
  def module(self) -> str:
    """The program in MLIR, for jaxlib's compiler."""
    from jax._src.lib import xla_client

    return xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(self.hlo))


def trace(run: Any, specs: Sequence[tf.TensorSpec]) -> tuple[Traced, Sequence[tf.Tensor]]:
  """Traces a Python function of tensors to HLO. Returns the program and its variables' handles.

  jax's public way, `jax.jit(jax2tf.call_tf(f))`, turns int64 and float64 into 32 bits unless
  this is changed for all of jax, and calls take a third longer.

  Raises an error of TensorFlow or XLA if the function cannot be compiled to HLO.
  """
  function = tf.function(run, jit_compile=True, autograph=False)
  handles = function.get_concrete_function(*specs).captured_inputs
  return Traced(function.experimental_get_compiler_ir(*specs)(stage='hlo_serialized')), handles


# Each observer is called with a program and its arguments before the program runs. It returns a
# function that is called with the results.
call_observers: list[Callable[['XlaProgram', Sequence[Any]], Callable[[Sequence[Any]], None]]] = []


class XlaProgram:
  """A program compiled by jaxlib, whose methods for this are public but in private modules.

  module: the source of the program, in MLIR.
  captured: its last arguments, which are the same in each call.
  """

  def __init__(
    self, module: str, device: Any, captured: Sequence[Any] = (), is_deterministic: bool = False
  ):
    """Compiles `module` for `device`.

    `captured`: the last arguments, which are the same in each call. `is_deterministic`: whether
    XLA must choose kernels that give bitwise equal results in every run, on a GPU.

    Raises an error of XLA if the module cannot be compiled.
    """
    from jax._src.lib import xla_client

    options = exported.compile_options(device)
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    if is_deterministic and device.platform != 'cpu':
      options.env_option_overrides += [('xla_gpu_deterministic_ops', True)]
    self._device = device
    self._executable = device.client.compile(module, options)
    self.module = module
    self.captured = [self.put(np.asarray(value)) for value in captured]

  @property
  def num_bytes(self) -> int | None:
    """The memory for arguments, results and temporary values; None if unknown."""
    try:
      stats = self._executable.get_compiled_memory_stats()
    except (AttributeError, RuntimeError):  # Not all devices tell.
      return None
    return stats.argument_size_in_bytes + stats.output_size_in_bytes + stats.temp_size_in_bytes

  def put(self, array: Any) -> Any:
    """A NumPy array as a buffer on the program's device."""
    return put(array, self._device)

  def __call__(self, arguments: Sequence[Any]) -> list[Any]:
    """Runs the program on arguments from `put`, and waits for it to finish."""
    observers = [observe(self, arguments) for observe in call_observers]
    results = self._executable.execute([*arguments, *self.captured])
    for result in results:
      result.block_until_ready()
    for observe in observers:
      observe(results)
    return results
