"""TensorFlow graphs of TFF computations, as functions that run in the process.

A TFF graph is cut into *segments* at its loops over data sets (`ReduceDataset`): what the
first loop needs, what follows from it, and so on. Each segment becomes one function, and
each loop a Python call, so that whoever runs the graph decides how to loop: see `sequences`
for the loop over the elements as they come, and `xla` for the loop over stacked batches.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
import copy
import dataclasses
import functools
import itertools
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import native
from tff_lowrank.execution import sequences
from tff_lowrank.execution import tensor_lists

_GRAPH_NUMBER = itertools.count()

# Shared names that make TensorFlow create a resource of its own in each run. The first is
# TensorFlow's ResourceHandle::ANONYMOUS_NAME.
_ANONYMOUS_VARIABLE = b'cd2c89b7-88b7-44c8-ad83-06c2a9158347'
_ANONYMOUS_TABLES = {
  'HashTableV2': 'AnonymousHashTable',
  'MutableHashTableV2': 'AnonymousMutableHashTable',
  'MutableHashTableOfTensorsV2': 'AnonymousMutableHashTableOfTensors',
  'MutableDenseHashTableV2': 'AnonymousMutableDenseHashTable',
}


@dataclasses.dataclass(frozen=True)
class Feed:
  """A leaf of the parameter. names: the tensors it is fed to; all but one for a data set."""

  names: tuple[str, ...]
  is_sequence: bool


def _leaves(binding: Any) -> Iterator[Any]:
  if binding.WhichOneof('binding') == 'struct':
    for element in binding.struct.element:
      yield from _leaves(element)
  else:
    yield binding


def _tensor_name(name: str) -> str:
  return name if ':' in name else f'{name}:0'


def _feeds(parameter: Any, graph_def: tf.compat.v1.GraphDef) -> list[Feed]:
  consumers = collections.defaultdict(list)
  for node in graph_def.node:
    for source in node.input:
      consumers[source.split(':')[0]].append(node)
  feeds = []
  for binding in _leaves(parameter):
    kind = binding.WhichOneof('binding')
    if kind == 'tensor':
      feeds.append(Feed((_tensor_name(binding.tensor.tensor_name),), False))
      continue
    kind = binding.sequence.WhichOneof('binding')
    name = getattr(binding.sequence, kind)
    if kind == 'variant_tensor_name':
      feeds.append(Feed((_tensor_name(name),), True))
    else:
      # The data set comes as a serialised graph; it is fed where that is read.
      readers = [n for n in consumers[name.split(':')[0]] if n.op == 'DatasetFromGraph']
      feeds.append(Feed(tuple(f'{n.name}:0' for n in readers), True))
  return feeds


def _fetches(result: Any) -> list[tuple[str, bool]]:
  """The name of each leaf of the result, and whether it is a data set."""
  fetches = []
  for binding in _leaves(result):
    if binding.WhichOneof('binding') == 'tensor':
      fetches.append((_tensor_name(binding.tensor.tensor_name), False))
    else:
      fetches.append((_tensor_name(binding.sequence.variant_tensor_name), True))
  return fetches


def _all_nodes(graph_def: tf.compat.v1.GraphDef) -> Iterator[Any]:
  yield from graph_def.node
  for function in graph_def.library.function:
    yield from function.node_def


def _rename_functions(graph_def: tf.compat.v1.GraphDef) -> None:
  """Makes function names unique: two TFF graphs may define different functions of one name."""
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

  for node in _all_nodes(graph_def):
    node.op = new_names.get(node.op, node.op)
    rename_in(node.attr)
  for function in graph_def.library.function:
    function.signature.name = new_names[function.signature.name]
    rename_in(function.attr)
  for gradient in graph_def.library.gradient:
    gradient.function_name = new_names.get(gradient.function_name, gradient.function_name)
    gradient.gradient_func = new_names.get(gradient.gradient_func, gradient.gradient_func)


def _make_resources_anonymous(graph_def: tf.compat.v1.GraphDef) -> None:
  """Gives every run variables and tables of its own, as a TensorFlow session would."""
  for node in graph_def.node:
    if node.op == 'VarHandleOp':
      node.attr['shared_name'].s = _ANONYMOUS_VARIABLE
    elif node.op in _ANONYMOUS_TABLES:
      node.op = _ANONYMOUS_TABLES[node.op]
      for name in ('container', 'shared_name', 'use_node_name_sharing'):
        node.attr.pop(name, None)


def _name_resources_once(graph_def: tf.compat.v1.GraphDef) -> None:
  """Lets all that uses a resource take it from where it is made, past identities.

  TensorFlow orders what different functions do to a variable by the tensor of its handle.
  """
  sources = {}
  for node in graph_def.node:
    if node.op == 'Identity' and node.attr['T'].type == tf.resource.as_datatype_enum:
      sources[node.name] = sources.get(node.input[0].split(':')[0], node.input[0])
  for node in graph_def.node:
    past = [source.removesuffix(':0') for source in node.input]
    past = [name for name in past if name in sources]
    for i, source in enumerate(node.input):
      node.input[i] = sources.get(source.removesuffix(':0'), source)
    # An identity may stand for an order as well.
    node.input.extend(f'^{name}' for name in past if f'^{name}' not in node.input)


def _calls_reduce(graph_def: tf.compat.v1.GraphDef) -> bool:
  return any(n.op == 'ReduceDataset' for f in graph_def.library.function for n in f.node_def)


def _asserts_shapes(node: Any, nodes: dict[str, Any]) -> bool:
  """Whether `node` is an assertion whose condition follows from shapes and constants."""
  if node.op != 'Assert':
    return False
  todo, seen = [node.input[0]], set()
  while todo:
    name = todo.pop().split(':')[0].lstrip('^')
    if name not in nodes:
      return False  # An argument of the function.
    if name not in seen and nodes[name].op not in ('Const', 'Rank', 'Shape', 'Size'):
      seen.add(name)
      if nodes[name].op == 'Placeholder' or not nodes[name].input:
        return False
      todo += nodes[name].input
  return True


class Loop:
  """A `ReduceDataset` of the top graph.

  parameter: the position of the parameter's leaf that it reads, or None if the data set is
    computed in the graph.
  step: `(*state, *components of an element, *other_arguments) -> state`.
  over: `(state, other_arguments, stacked components) -> state`, a step for each element.
  component_specs: of the elements' components.
  The other attributes are names, of the operation and of tensors.
  """

  def __init__(
    self,
    op: tf.Operation,
    signature: Any,
    parameter: int | None,
    step: Callable[..., list[tf.Tensor]],
  ):
    num_state = len(op.get_attr('Tstate'))
    names = [tensor.name for tensor in op.inputs]
    self.name = op.name
    self.dataset = names[0]
    self.initial_state = names[1 : 1 + num_state]
    self.other_arguments = names[1 + num_state :]
    self.results = [tensor.name for tensor in op.outputs]
    self.parameter = parameter
    self.step = step
    components = signature.input_arg[num_state : len(signature.input_arg) - len(self.other_arguments)]
    self.component_specs = tuple(
      tf.TensorSpec([] if arg.type == tf.variant.as_datatype_enum else None, tf.as_dtype(arg.type))
      for arg in components
    )

    def over(state, others, components):
      def body(i, *state):
        return i + 1, *step(*state, *(tf.gather(c, i) for c in components), *others)

      count = tf.shape(components[0])[0]
      unknown = [tf.TensorShape(None)] * len(state)
      result = tf.while_loop(
        lambda i, *_: i < count,
        body,
        (0, *state),
        shape_invariants=(tf.TensorShape([]), *unknown),
        parallel_iterations=1,
      )
      return list(result[1:])

    def specs(tensors):
      return [tf.TensorSpec(None, t.dtype) for t in tensors]

    signature = (
      specs(op.inputs[1 : 1 + num_state]),
      specs(op.inputs[1 + num_state :]),
      specs(self.component_specs),
    )
    trace = tf.function(over, input_signature=signature, autograph=False).get_concrete_function
    self.over = _Lazy(trace)


_LARGE_STATE_BYTES = 1 << 20


class Engine:
  """How the graphs of a computation run; this one runs them in TensorFlow."""

  def graph(self, graph: 'GraphFunction') -> 'GraphFunction':
    """The form of a graph that this engine runs."""
    return graph

  def variables(self, graph: 'GraphFunction') -> list[tf.Tensor]:
    """Handles for the variables of a graph that is fed them."""
    raise NotImplementedError

  def loop(
    self, loop: Loop, source: Any, state: list[tf.Tensor], others: list[tf.Tensor]
  ) -> list[tf.Tensor]:
    """Runs a loop, over runs of equal elements at a time.

    Args:
      loop: The loop.
      source: The sequence that it reads, or the variant tensor of a computed data set.
      state: Before the first step.
      others: What is the same in each step.
    """
    if isinstance(source, tf.Tensor):
      pieces = sequences.chunks(sequences.read_variant(source, loop.component_specs))
    else:
      pieces = source.chunks()
    # TensorFlow's loops copy their state in each step, which for large models costs more than
    # calling the step from here.
    numbers = (t for t in state if t.dtype.is_floating or t.dtype.is_integer)
    is_large = sum(t.shape.num_elements() * t.dtype.size for t in numbers) > _LARGE_STATE_BYTES
    for piece in pieces:
      components = [tf.convert_to_tensor(a) for a in piece]
      if is_large:
        for i in range(len(piece[0])):
          state = loop.step(*state, *(c[i] for c in components), *others)
      else:
        state = loop.over(state, others, components)
    return state


@dataclasses.dataclass
class _Segment:
  """Operations that run together. inputs, outputs: names of tensors from and for elsewhere."""

  inputs: list[str]
  outputs: list[str]
  function: Callable[..., list[tf.Tensor]]


class GraphFunction:
  """A TensorFlow graph of TFF, as a function of the flat leaves of its parameter.

  loops: its loops over data sets, level by level.
  variables: names of the handles of its variables, with their dtypes and shapes.
  """

  def __init__(self, proto: Any):
    """Reads `proto`, the `tensorflow` field of a TFF computation's proto."""
    graph_def = tf.compat.v1.GraphDef()
    proto.graph_def.Unpack(graph_def)
    self.fetches = _fetches(proto.result)
    self.feeds = _feeds(proto.parameter, graph_def) if proto.HasField('parameter') else []
    token = proto.session_token_tensor_name
    self._token = _tensor_name(token) if token else None
    self._init_op = proto.initialize_op
    if _calls_reduce(graph_def):
      names = [name for feed in self.feeds for name in feed.names]
      fetched = [name for name, _ in self.fetches]
      graph_def = native.inline_functions(graph_def, names, fetched, self._init_op)
    _rename_functions(graph_def)
    _make_resources_anonymous(graph_def)
    _name_resources_once(graph_def)
    self._load(graph_def, for_xla=False)

  @functools.cached_property
  def for_xla(self) -> 'GraphFunction':
    """The same for tracing into an XLA program.

    Its variables are fed, what initialises them to no effect is gone, and what loops keep for
    their gradients has a bound.
    """
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(self._graph_def)
    _rename_functions(graph_def)
    tensor_lists.make_static(graph_def)
    variant = copy.copy(self)
    variant._load(graph_def, for_xla=True)
    return variant

  # -- Cutting -----------------------------------------------------------------------------

  def _load(self, graph_def: tf.compat.v1.GraphDef, for_xla: bool) -> None:
    self._graph_def = graph_def
    self._library = graph_def.library
    self.graph = tf.Graph()
    with self.graph.as_default():
      tf.import_graph_def(graph_def, name='')
    handles = [op for op in self.graph.get_operations() if op.type == 'VarHandleOp']
    self.variables = {
      f'{op.name}:0': tf.TensorSpec(op.get_attr('shape'), op.get_attr('dtype')) for op in handles
    }
    self._is_for_xla = for_xla
    self.loops: list[list[Loop]] = []
    self._segments: list[_Segment] = []
    self._cut(for_xla)

  def _cut(self, for_xla: bool) -> None:
    fed = {name for feed in self.feeds for name in feed.names}
    if self._token:
      fed.add(self._token)
    if for_xla:
      fed.update(self.variables)
    fed_ops = {name.split(':')[0] for name in fed}

    def needed(targets: Iterable[tf.Operation]) -> set[str]:
      seen, todo = set(), list(targets)
      while todo:
        op = todo.pop()
        if op.name not in seen and op.name not in fed_ops:
          seen.add(op.name)
          inputs = list(op.inputs)
          if op.type == 'ReduceDataset' and self._parameter_read(op) is not None:
            del inputs[0]  # The loop reads the parameter itself.
          todo += [tensor.op for tensor in inputs] + list(op.control_inputs)
      return seen

    main = needed(self.graph.get_tensor_by_name(name).op for name, _ in self.fetches)
    at_start = set()
    if self._init_op:
      at_start = needed([self.graph.get_operation_by_name(self._init_op)])
      if for_xla:
        at_start = needed(self._live_initializers(at_start, main))
    self._wanted = main | at_start
    ops = [op for op in self.graph.get_operations() if op.name in self._wanted]
    can_cut = all(op.type != 'NextIteration' for op in ops)  # No cycles.

    # An operation's level is the number of loops that must end before it can run.
    level, loops = {}, {}
    for op in ops:
      if op.name in at_start:
        level[op.name] = -1
        continue
      sources = [tensor.op for tensor in op.inputs] + list(op.control_inputs)
      sources = [s for s in sources if s.name in level]
      level[op.name] = max([0, *(level[s.name] + (s.name in loops) for s in sources)])
      if can_cut and op.type == 'ReduceDataset':
        loops[op.name] = op
    last = max(level.values(), default=0)
    for number in range(-1 if at_start else 0, last + 1):
      members = [op for op in ops if level[op.name] == number and op.name not in loops]
      self._segments.append(self._segment(members, level, loops, fed))
      here = [op for name, op in loops.items() if level[name] == number]
      self.loops.append([self._loop(op) for op in here])

  def _live_initializers(self, at_start: set[str], main: set[str]) -> list[tf.Operation]:
    """The initial assignments of variables that may be read before they are assigned again."""

    def reaches(op: tf.Operation, target: tf.Operation) -> bool:
      seen, todo = set(), [op]
      while todo:
        op = todo.pop()
        if op is target:
          return True
        if op.name not in seen:
          seen.add(op.name)
          todo += [tensor.op for tensor in op.inputs] + list(op.control_inputs)
      return False

    live = []
    for op in self.graph.get_operations():
      if op.name not in at_start or op.type != 'AssignVariableOp':
        continue
      uses = [
        use
        for use in _users(op.inputs[0])
        if use.name in main and use.name not in at_start
      ]
      assignments = [use for use in uses if use.type == 'AssignVariableOp']
      is_dead = len(assignments) > 0 and all(
        use is assignments[0] or reaches(use, assignments[0]) for use in uses
      )
      if not is_dead:
        live.append(op)
    return live

  def _segment(self, members, level, loops, fed) -> _Segment:
    names = {op.name for op in members}
    fetched = {name for name, _ in self.fetches}
    inputs, outputs, constants = {}, {}, set()
    for op in members:
      for tensor in op.inputs:
        if tensor.name in fed or tensor.op.name in loops:
          inputs[tensor.name] = tensor
        elif tensor.op.name not in names:
          if tensor.op.type == 'Const':
            constants.add(tensor.op.name)
          else:
            inputs[tensor.name] = tensor
      for tensor in op.outputs:
        elsewhere = any(c.name in level and c.name not in names for c in tensor.consumers())
        is_constant = op.type == 'Const' and not any(c.name in loops for c in tensor.consumers())
        if tensor.name in fetched or tensor.name in self.variables or (
          elsewhere and not is_constant
        ):
          outputs[tensor.name] = tensor
    function = functools.partial(
      self._import, names | constants, names, dict(inputs), list(outputs)
    )
    return _Segment(list(inputs), list(outputs), _Lazy(function))

  def _import(self, keep, members, inputs, outputs) -> Callable[..., list[tf.Tensor]]:
    """The function of the nodes `keep`, from `inputs` to `outputs`."""
    graph_def = tf.compat.v1.GraphDef(versions=self._graph_def.versions)
    graph_def.library.CopyFrom(self._library)
    for node in self._graph_def.node:
      if node.name in keep:
        kept = graph_def.node.add()
        kept.CopyFrom(node)
        kept.attr.pop('_class', None)
        inputs_kept = [s for s in node.input if not s.startswith('^') or s[1:] in members]
        del kept.input[:]
        kept.input.extend(inputs_kept)

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs.values()]
    return _function(graph_def, list(inputs), specs, outputs)

  def _loop(self, op: tf.Operation) -> Loop:
    name = op.get_attr('f').name
    signature = next(f for f in self._library.function if f.signature.name == name).signature
    step = _Lazy(functools.partial(self._step, signature))
    return Loop(op, signature, self._parameter_read(op), step)

  def _step(self, signature: Any) -> Callable[..., list[tf.Tensor]]:
    """The function of one step of a loop."""
    graph_def = tf.compat.v1.GraphDef(versions=self._graph_def.versions)
    graph_def.library.CopyFrom(self._library)
    names = [f'argument_{i}' for i in range(len(signature.input_arg))]
    for name, argument in zip(names, signature.input_arg, strict=True):
      placeholder = graph_def.node.add(op='Placeholder', name=name)
      placeholder.attr['dtype'].type = argument.type
    call = graph_def.node.add(op='StatefulPartitionedCall', name='step')
    call.attr['f'].func.name = signature.name
    call.attr['Tin'].list.type.extend(arg.type for arg in signature.input_arg)
    call.attr['Tout'].list.type.extend(arg.type for arg in signature.output_arg)
    call.input.extend(names)
    results = [f'step:{i}' for i in range(len(signature.output_arg))]
    if self._is_for_xla:
      graph_def = native.inline_functions(graph_def, [f'{n}:0' for n in names], results, '')
      _rename_functions(graph_def)
      tensor_lists.make_static(graph_def)

    specs = [tf.TensorSpec(None, tf.as_dtype(arg.type)) for arg in signature.input_arg]
    return _function(graph_def, [f'{n}:0' for n in names], specs, results)

  def _parameter_read(self, op: tf.Operation) -> int | None:
    """The position of the parameter's leaf that a loop reads as it is, or None."""
    positions = {name: i for i, feed in enumerate(self.feeds) for name in feed.names}
    tensor = op.inputs[0]
    while tensor.name not in positions:
      if tensor.op.type not in ('Identity', 'OptionsDataset'):
        return None
      tensor = tensor.op.inputs[0]
    return positions[tensor.name]

  def operations(self) -> Iterator[tuple[str, set[tf.DType]]]:
    """The type of every operation that may run, in functions too, and its tensors' dtypes.

    Left out are the loops that were cut out, constants, and assertions on shapes alone.
    """
    loops = {loop.name for loops in self.loops for loop in loops}
    nodes = {n.name: n for n in self._graph_def.node}
    for op in self.graph.get_operations():
      counts = op.type != 'Const' and not _asserts_shapes(nodes[op.name], nodes)
      if op.name in self._wanted and op.name not in loops and counts:
        yield op.type, {t.dtype for t in itertools.chain(op.inputs, op.outputs)}
    for function in self._library.function:
      signature = function.signature
      for argument in itertools.chain(signature.input_arg, signature.output_arg):
        yield 'PartitionedCall', {tf.as_dtype(argument.type)}
      nodes = {n.name: n for n in function.node_def}
      for node in function.node_def:
        if node.op != 'Const' and not _asserts_shapes(node, nodes):
          yield node.op, {tf.as_dtype(a.type) for a in node.attr.values() if a.HasField('type')}

  # -- Running -----------------------------------------------------------------------------

  def __call__(self, arguments: Sequence[Any], engine: Engine) -> list[Any]:
    """The flat leaves of the result.

    Args:
      arguments: One for each of `feeds`: a tensor, or for a data set something with a method
        `variant()`.
      engine: Runs the loops.
    """
    values = {self._token: tf.constant('')} if self._token else {}
    if self._is_for_xla:
      values.update(zip(self.variables, engine.variables(self), strict=True))
    for feed, argument in zip(self.feeds, arguments, strict=True):
      for name in feed.names:
        values[name] = argument

    def value_of(name: str) -> tf.Tensor:
      value = values[name]
      return value if isinstance(value, tf.Tensor) else value.variant()

    try:
      for segment, loops in zip(self._segments, self.loops, strict=True):
        if segment.outputs or segment.inputs:
          outputs = segment.function(*[value_of(name) for name in segment.inputs])
          values.update(zip(segment.outputs, outputs, strict=True))
        for reduce in loops:
          source = (
            values[reduce.dataset] if reduce.parameter is None else arguments[reduce.parameter]
          )
          results = engine.loop(
            reduce,
            source,
            [value_of(name) for name in reduce.initial_state],
            [value_of(name) for name in reduce.other_arguments],
          )
          values.update(zip(reduce.results, results, strict=True))
      return [values[name] for name, _ in self.fetches]
    finally:
      for name in self.variables:
        if name in values and not self._is_for_xla:
          tf.raw_ops.DestroyResourceOp(resource=values[name], ignore_lookup_error=True)


def _function(
  graph_def: tf.compat.v1.GraphDef,
  inputs: Sequence[str],
  specs: Sequence[tf.TensorSpec],
  outputs: Sequence[str],
) -> Callable[..., list[tf.Tensor]]:
  """The graph as a function from the tensors called `inputs` to those called `outputs`.

  A `tf.function` runs all that has an effect, and whoever calls it keeps the order.
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


class _Lazy:
  """A function that is built when it is first called."""

  def __init__(self, build: Callable[[], Callable[..., Any]]):
    self._build = build
    self._function = None

  def __call__(self, *arguments: Any) -> Any:
    if self._function is None:
      self._function = self._build()
    return self._function(*arguments)


def _users(handle: tf.Tensor) -> Iterator[tf.Operation]:
  """The operations that use a variable's handle, identities aside."""
  for op in handle.consumers():
    if op.type == 'Identity':
      yield from _users(op.outputs[0])
    else:
      yield op
