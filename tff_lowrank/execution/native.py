"""All that this room takes from private modules, in one place, each with its reason."""

from collections.abc import Iterator, Sequence
import contextlib
import copy
import logging
import os
from typing import Any
import weakref

import numpy as np
import tensorflow as tf

# TensorFlow's own way to make a graph's library of functions known where functions run.
from tensorflow.python.eager import context as eager_context

# TFF and TensorFlow offer Grappler on a plain graph in private modules only. It is asked for
# one thing: to inline functions, so that a loop over a data set stands in the top graph.
from tensorflow_federated.python.core.environments.tensorflow_backend import graph_optimizations
from tensorflow_federated.python.core.environments.tensorflow_backend import graph_spec

# A value's proof of fit to a `tff.TensorType`, with the stock context's error messages.
from tensorflow_federated.python.core.impl.compiler import array as tff_array

# How the stock context turns a Python list into a data set, and a data set's elements into
# the containers that TFF's types name.
from tensorflow_federated.python.core.impl.utils import tensorflow_utils

is_compatible_dtype = tff_array.is_compatible_dtype
is_compatible_shape = tff_array.is_compatible_shape
make_dataset_from_elements = tensorflow_utils.make_data_set_from_elements
coerce_dataset_elements = tensorflow_utils.coerce_dataset_elements_to_tff_type_spec


def inline_functions(
  graph_def: tf.compat.v1.GraphDef, feeds: Sequence[str], fetches: Sequence[str], init_op: str
) -> tf.compat.v1.GraphDef:
  """`graph_def` with the functions that it calls inlined, control flow kept as functions."""
  for node in list(graph_def.node) + [n for f in graph_def.library.function for n in f.node_def]:
    # Otherwise inlining turns `While` and `If` into switches and merges, beyond XLA's reach.
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


def without_memory_optimizer(config: bytes) -> tf.compat.v1.ConfigProto:
  """A serialised `ConfigProto`, read, with Grappler's memory optimizer off.

  That optimizer puts temporary variables into large sums, of one name in all calls of a function.
  In eager mode all calls share one container for them, so that two threads that run the same
  function would take each other's. TensorFlow has no public option to turn it off.
  """
  proto = tf.compat.v1.ConfigProto.FromString(config)
  rewrites = proto.graph_options.rewrite_options
  rewrites.memory_optimization = rewrites.NO_MEM_OPT
  return proto


@contextlib.contextmanager
def functions_without_memory_optimizer() -> Iterator[None]:
  """Inside, this thread calls functions without Grappler's memory optimizer."""
  context = eager_context.context()
  before = context.function_call_options
  options = copy.copy(before)
  options.config_proto_serialized = without_memory_optimizer(before.config_proto_serialized)
  context.function_call_options = options
  try:
    yield
  finally:
    context.function_call_options = before


def register_functions(owner: Any, library: Any) -> None:
  """Makes the functions of a graph's library known to TensorFlow for as long as `owner` lives."""
  context = eager_context.context()
  for function in library.function:
    context.add_function_def(function)
    weakref.finalize(owner, _remove_function, function.signature.name)


def _remove_function(name: str) -> None:
  if eager_context.context().has_function(name):
    eager_context.context().remove_function(name)


def dataset_inputs(dataset: tf.data.Dataset) -> Sequence[tf.data.Dataset]:
  """The data sets that `dataset` was made from; TensorFlow keeps them under a private name."""
  return dataset._inputs()


def map_function(dataset: tf.data.Dataset):
  """The concrete function of a data set made by `map` or `filter`, or None."""
  for name in ('_map_func', '_predicate'):
    wrapper = getattr(dataset, name, None)
    if wrapper is not None:
      return wrapper.function
  return None


def xla_devices(kind: str) -> list[Any]:
  """jaxlib's devices of a kind, `'cpu'` or `'gpu'`; none if there are none."""
  # Asked for only where XLA is, and GPU memory is taken as needed.
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  from jax._src import xla_bridge

  # It tells at length which kinds of devices are not there.
  logging.getLogger(xla_bridge.__name__).setLevel(logging.WARNING)
  try:
    return xla_bridge.get_backend(kind).local_devices()
  except RuntimeError:
    return []


class XlaProgram:
  """A program compiled by jaxlib from a `tf.function`.

  jax's public way, `jax.jit(jax2tf.call_tf(f))`, turns int64 and float64 into 32 bits unless
  all of jax is set otherwise, and takes a third longer to call. Below it lie the public methods
  of jaxlib's client, reached through private modules.
  """

  def __init__(
    self, function: Any, specs: Sequence[Any], device: Any, captured: Sequence[Any] = ()
  ):
    """Compiles `function`, a `tf.function`, called with `specs`, for `device`.

    `captured` are the values of the variables that it captures, in TensorFlow's order.

    Raises whatever TensorFlow or XLA raise if it cannot be compiled.
    """
    from jax._src.lib import xla_client

    hlo = function.experimental_get_compiler_ir(*specs)(stage='hlo_serialized')
    module = xla_client._xla.mlir.xla_computation_to_mlir_module(xla_client.XlaComputation(hlo))
    options = xla_client.CompileOptions()
    options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
    self._client, self._device = device.client, device
    self._executable = self._client.compile(module, options)
    self._captured = [self.put(np.asarray(value)) for value in captured]

  def put(self, array: Any) -> Any:
    """`array`, of NumPy, on the program's device; on the CPU it is not copied."""
    return self._client.buffer_from_pyval(array, self._device)

  def __call__(self, arguments: Sequence[Any]) -> list[Any]:
    """Runs the program on arguments from `put`; returns when it is done."""
    results = self._executable.execute([*arguments, *self._captured])
    for result in results:
      result.block_until_ready()
    return results
