"""Reading and rewriting the TensorFlow graphs of TFF's computations."""

import collections
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import itertools
import threading
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import interruptible
from tff_lowrank.execution import native

_GRAPH_NUMBER = itertools.count()

# With these shared names, TensorFlow creates a new resource in each run. The first is TensorFlow's
# ResourceHandle::ANONYMOUS_NAME.
_ANONYMOUS_VARIABLE = b'cd2c89b7-88b7-44c8-ad83-06c2a9158347'
_ANONYMOUS_TABLES = {
  'HashTableV2': 'AnonymousHashTable',
  'MutableHashTableV2': 'AnonymousMutableHashTable',
  'MutableHashTableOfTensorsV2': 'AnonymousMutableHashTableOfTensors',
  'MutableDenseHashTableV2': 'AnonymousMutableDenseHashTable',
}


@dataclasses.dataclass(frozen=True)
class Feed:
  """A leaf of the parameter. names: the tensors it is fed to: one, or for a data set any number."""

  names: tuple[str, ...]
  is_sequence: bool


def _leaves(binding: Any) -> Iterator[Any]:
  if binding.WhichOneof('binding') == 'struct':
    for element in binding.struct.element:
      yield from _leaves(element)
  else:
    yield binding


def tensor_name(name: str) -> str:
  return name if ':' in name else f'{name}:0'


def read_feeds(parameter: Any, graph_def: tf.compat.v1.GraphDef) -> list[Feed]:
  """The tensors to which each leaf of the parameter is fed."""
  consumers = collections.defaultdict(list)
  for node in graph_def.node:
    for source in node.input:
      consumers[source.split(':')[0]].append(node)
  feeds = []
  for binding in _leaves(parameter):
    kind = binding.WhichOneof('binding')
    if kind == 'tensor':
      feeds.append(Feed((tensor_name(binding.tensor.tensor_name),), False))
      continue
    kind = binding.sequence.WhichOneof('binding')
    name = getattr(binding.sequence, kind)
    if kind == 'variant_tensor_name':
      feeds.append(Feed((tensor_name(name),), True))
    else:
      # The parameter is a serialised graph; the data set is fed where that is deserialised.
      readers = [n for n in consumers[name.split(':')[0]] if n.op == 'DatasetFromGraph']
      feeds.append(Feed(tuple(f'{n.name}:0' for n in readers), True))
  return feeds


def read_fetches(result: Any) -> list[tuple[str, bool]]:
  """The name of each leaf of the result, and whether it is a data set."""
  fetches = []
  for binding in _leaves(result):
    if binding.WhichOneof('binding') == 'tensor':
      fetches.append((tensor_name(binding.tensor.tensor_name), False))
    else:
      fetches.append((tensor_name(binding.sequence.variant_tensor_name), True))
  return fetches


def all_nodes(graph_def: tf.compat.v1.GraphDef) -> Iterator[Any]:
  """The nodes of a graph, and of the functions in its library."""
  yield from graph_def.node
  for function in graph_def.library.function:
    yield from function.node_def


def rename_functions(graph_def: tf.compat.v1.GraphDef) -> None:
  """Makes function names unique: two TFF graphs may use one name for different functions."""
  number = next(_GRAPH_NUMBER)
  new_names = {
    f.signature.name: f'{f.signature.name}_graph{number}' for f in graph_def.library.function
  }

  def rename_in(attributes: Any) -> None:
    for value in attributes.values():
      for reference in itertools.chain([value.func], value.list.func):
        if reference.name in new_names:
          reference.name = new_names[reference.name]
      if value.HasField('s') and value.s.decode('latin1') in new_names:
        value.s = new_names[value.s.decode('latin1')].encode('latin1')

  for node in all_nodes(graph_def):
    node.op = new_names.get(node.op, node.op)
    rename_in(node.attr)
  for function in graph_def.library.function:
    function.signature.name = new_names[function.signature.name]
    rename_in(function.attr)
  for gradient in graph_def.library.gradient:
    gradient.function_name = new_names.get(gradient.function_name, gradient.function_name)
    gradient.gradient_func = new_names.get(gradient.gradient_func, gradient.gradient_func)


def make_resources_anonymous(graph_def: tf.compat.v1.GraphDef) -> None:
  """Gives each run its own variables and tables, as TensorFlow sessions do."""
  for node in graph_def.node:
    if node.op == 'VarHandleOp':
      node.attr['shared_name'].s = _ANONYMOUS_VARIABLE
    elif node.op in _ANONYMOUS_TABLES:
      node.op = _ANONYMOUS_TABLES[node.op]
      for name in ('container', 'shared_name', 'use_node_name_sharing'):
        node.attr.pop(name, None)


def allow_calls_side_by_side(graph_def: tf.compat.v1.GraphDef) -> None:
  """Removes the use of temporary variables from functions: in eager mode, threads share them."""
  for node in all_nodes(graph_def):
    if 'config_proto' in node.attr:
      config = node.attr['config_proto']
      config.s = native.without_memory_optimizer(config.s)
    if node.op == 'AccumulateNV2':  # TensorFlow implements it with a temporary variable.
      node.op = 'AddN'
      del node.attr['shape']


def name_resources_once(graph_def: tf.compat.v1.GraphDef) -> None:
  """Connects every use of a resource directly to the node that creates it, without identities.

  TensorFlow orders the operations of different functions on a variable by its handle's tensor.
  """
  sources: dict[str, str] = {}
  for node in graph_def.node:
    if node.op == 'Identity' and node.attr['T'].type == tf.resource.as_datatype_enum:
      sources[node.name] = sources.get(node.input[0].split(':')[0], node.input[0])
  for node in graph_def.node:
    past = [source.removesuffix(':0') for source in node.input]
    past = [name for name in past if name in sources]
    for i, source in enumerate(node.input):
      node.input[i] = sources.get(source.removesuffix(':0'), source)
    # An identity may have control inputs, which are kept.
    node.input.extend(f'^{name}' for name in past if f'^{name}' not in node.input)


def _called(node: Any) -> Iterator[str]:
  """The names of the functions that a node calls, among others."""
  yield node.op
  for value in node.attr.values():
    for reference in itertools.chain([value.func], value.list.func):
      yield reference.name


def _implements(function: Any) -> bytes:
  """What functions for different devices that may stand in for each other have in common."""
  return function.attr['api_implements'].s if 'api_implements' in function.attr else b''


def add_called_functions(graph_def: tf.compat.v1.GraphDef, library: Any) -> None:
  """Adds the functions of `library` that the nodes of `graph_def`, and they themselves, call."""
  functions = {function.signature.name: function for function in library.function}
  alike: dict[Any, list[str]] = collections.defaultdict(list)
  for name, function in functions.items():
    if _implements(function):
      alike[_implements(function)].append(name)
  for gradient in library.gradient:
    alike[gradient.function_name].append(gradient.gradient_func)
  needed: set[str] = set()
  todo = [name for node in graph_def.node for name in _called(node)]
  while todo:
    name = todo.pop()
    if name in functions and name not in needed:
      needed.add(name)
      todo += alike[name] + alike[_implements(functions[name])]
      todo += [called for node in functions[name].node_def for called in _called(node)]
  graph_def.library.function.extend(functions[name] for name in functions if name in needed)
  graph_def.library.gradient.extend(g for g in library.gradient if g.function_name in needed)


def calls_reduce(graph_def: tf.compat.v1.GraphDef) -> bool:
  return any(n.op == 'ReduceDataset' for f in graph_def.library.function for n in f.node_def)


def function(
  graph_def: tf.compat.v1.GraphDef,
  inputs: Sequence[str],
  specs: Sequence[tf.TensorSpec],
  outputs: Sequence[str],
) -> Callable[..., list[tf.Tensor]]:
  """The graph as a function from the tensors named `inputs` to those named `outputs`.

  As a `tf.function`, it runs all operations with side effects. The caller must keep their order.
  """

  def run(*arguments: tf.Tensor) -> list[tf.Tensor]:
    return tf.graph_util.import_graph_def(
      graph_def,
      input_map=dict(zip(inputs, arguments, strict=True)),
      return_elements=list(outputs),
      name='',
    )

  function = tf.function(run, input_signature=list(specs), autograph=False).get_concrete_function()
  native.register_functions(function, graph_def.library)
  return function


class Lazy:
  """A concrete function that is built on its first call, once for all threads."""

  def __init__(self, build: Callable[[], Callable[..., Any]]):
    self._build = build
    self._function: Callable[..., Any] | None = None
    self._is_prepared = False
    self._lock = threading.Lock()

  def __call__(self, *arguments: Any) -> list[tf.Tensor]:
    if not self._is_prepared:
      self.prepare(arguments)
    assert self._function is not None
    return interruptible.call(self._function, *arguments)

  def prepare(self, arguments: Sequence[Any] | None = None) -> None:
    """Builds the function; what else its first call does is done with `arguments`.

    If they are None, what can be done without them.
    """
    with self._lock:
      if self._function is None:
        self._function = self._build()
      if tf.executing_eagerly() and not self._is_prepared:
        self._is_prepared = interruptible.prepare(self._function, arguments)
