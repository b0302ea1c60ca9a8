"""TensorFlow graphs of TFF computations as Python functions.

A TFF graph is split into *segments* at its loops over data sets (`ReduceDataset`): the operations
before the first loop, those that depend on it, and so on. Each segment becomes one function, and
each loop a call from Python, so the caller decides how a loop runs: `sequences` loops over elements
as they are read, and `xla` over stacked batches.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import copy
import dataclasses
import functools
import itertools
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import assertions
from tff_lowrank.execution import graph_defs
from tff_lowrank.execution import loops as loops_lib
from tff_lowrank.execution import native
from tff_lowrank.execution import tensor_lists


@dataclasses.dataclass
class _Segment:
  """Operations that run together. inputs, outputs: names of tensors that cross its boundary."""

  inputs: list[str]
  outputs: list[str]
  function: graph_defs.Lazy


class GraphFunction:
  """A TensorFlow graph of TFF as a function of the flat leaves of its parameter.

  loops: its loops over data sets, level by level.
  variables: the names of its variables' handles, with their dtypes and shapes.
  """

  def __init__(self, proto: Any):
    """Creates it from `proto`, the `tensorflow` field of a TFF computation's proto."""
    graph_def = tf.compat.v1.GraphDef()
    proto.graph_def.Unpack(graph_def)
    self.fetches = graph_defs.read_fetches(proto.result)
    self.feeds = (
      graph_defs.read_feeds(proto.parameter, graph_def) if proto.HasField('parameter') else []
    )
    token = proto.session_token_tensor_name
    self._token = graph_defs.tensor_name(token) if token else None
    self._init_op = proto.initialize_op
    if graph_defs.calls_reduce(graph_def):
      names = [name for feed in self.feeds for name in feed.names]
      fetched = [name for name, _ in self.fetches]
      graph_def = native.inline_functions(graph_def, names, fetched, self._init_op)
    graph_defs.rename_functions(graph_def)
    graph_defs.allow_calls_side_by_side(graph_def)
    graph_defs.make_resources_anonymous(graph_def)
    graph_defs.name_resources_once(graph_def)
    self._load(graph_def, for_xla=False)

  @functools.cached_property
  def for_xla(self) -> 'GraphFunction':
    """The same graph, changed for tracing into an XLA program.

    Its variables are fed, initial assignments that are never read are removed, and the lists that
    loops keep for their gradients have a fixed size.
    """
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(self._graph_def)
    graph_defs.rename_functions(graph_def)
    assertions.remove_shape_assertions(graph_def)
    tensor_lists.make_static(graph_def)
    variant = copy.copy(self)
    variant._load(graph_def, for_xla=True)
    return variant

  # -- Splitting ---------------------------------------------------------------------------

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
    self.loops: list[list[loops_lib.Loop]] = []
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
            del inputs[0]  # The loop reads the parameter directly.
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

    # An operation's level is the number of loops that must finish before it can run.
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
    """The initial assignments of variables that may be read before the next assignment."""

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
      uses = [use for use in _users(op.inputs[0]) if use.name in main and use.name not in at_start]
      assignments = [use for use in uses if use.type == 'AssignVariableOp']
      is_dead = len(assignments) > 0 and all(
        use is assignments[0] or reaches(use, assignments[0]) for use in uses
      )
      if not is_dead:
        live.append(op)
    return live

  def _segment(self, members: Any, level: Any, loops: Any, fed: Any) -> _Segment:
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
        if (
          tensor.name in fetched or tensor.name in self.variables or (elsewhere and not is_constant)
        ):
          outputs[tensor.name] = tensor
    function = functools.partial(
      self._import, names | constants, names, dict(inputs), list(outputs)
    )
    return _Segment(list(inputs), list(outputs), graph_defs.Lazy(function))

  def _import(
    self, keep: set[str], members: set[str], inputs: dict[str, tf.Tensor], outputs: list[str]
  ) -> Callable[..., list[tf.Tensor]]:
    """The function of the nodes `keep`, from `inputs` to `outputs`."""
    graph_def = tf.compat.v1.GraphDef(versions=self._graph_def.versions)
    for node in self._graph_def.node:
      if node.name in keep:
        kept = graph_def.node.add()
        kept.CopyFrom(node)
        kept.attr.pop('_class', None)
        inputs_kept = [s for s in node.input if not s.startswith('^') or s[1:] in members]
        del kept.input[:]
        kept.input.extend(inputs_kept)
    graph_defs.add_called_functions(graph_def, self._library)

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs.values()]
    return graph_defs.function(graph_def, list(inputs), specs, outputs)

  def _loop(self, op: tf.Operation) -> loops_lib.Loop:
    name = op.get_attr('f').name
    signature = next(f for f in self._library.function if f.signature.name == name).signature
    step = graph_defs.Lazy(functools.partial(self._step, signature))
    return loops_lib.Loop(op, signature, self._parameter_read(op), step)

  def _step(self, signature: Any) -> Callable[..., list[tf.Tensor]]:
    """The function of one step of a loop."""
    graph_def = tf.compat.v1.GraphDef(versions=self._graph_def.versions)
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
    graph_defs.add_called_functions(graph_def, self._library)
    if self._is_for_xla:
      feeds = [f'{n}:0' for n in names]
      graph_def = native.inline_functions(graph_def, feeds, results, '')
      graph_defs.rename_functions(graph_def)
      tensor_lists.make_static(graph_def)

    specs = [tf.TensorSpec(None, tf.as_dtype(arg.type)) for arg in signature.input_arg]
    return graph_defs.function(graph_def, [f'{n}:0' for n in names], specs, results)

  def _parameter_read(self, op: tf.Operation) -> int | None:
    """The position of the parameter's leaf that a loop reads unchanged, or None."""
    positions = {name: i for i, feed in enumerate(self.feeds) for name in feed.names}
    tensor = op.inputs[0]
    while tensor.name not in positions:
      if tensor.op.type not in ('Identity', 'OptionsDataset'):
        return None
      tensor = tensor.op.inputs[0]
    return positions[tensor.name]

  def operations(self) -> Iterator[tuple[str, set[tf.DType]]]:
    """Yields the type of each operation that may run, and the dtypes of its tensors.

    Operations in functions are included. The loops over data sets themselves, constants, and
    assertions that depend only on shapes are not.
    """
    loops = {loop.name for loops in self.loops for loop in loops}
    on_shapes = assertions.shape_assertions(self._graph_def)
    for op in self.graph.get_operations():
      counts = op.type != 'Const' and ('', op.name) not in on_shapes
      if op.name in self._wanted and op.name not in loops and counts:
        yield op.type, {t.dtype for t in itertools.chain(op.inputs, op.outputs)}
    for function in self._library.function:
      signature = function.signature
      for argument in itertools.chain(signature.input_arg, signature.output_arg):
        yield 'PartitionedCall', {tf.as_dtype(argument.type)}
      for node in function.node_def:
        if node.op != 'Const' and (signature.name, node.name) not in on_shapes:
          yield node.op, {tf.as_dtype(a.type) for a in node.attr.values() if a.HasField('type')}

  # -- Running -----------------------------------------------------------------------------

  @property
  def functions(self) -> list[graph_defs.Lazy]:
    """Those that a call runs, in their order, but for the loops'."""
    return [segment.function for segment in self._segments if segment.inputs or segment.outputs]

  def __call__(self, arguments: Sequence[Any], engine: loops_lib.Engine) -> list[Any]:
    """The flat leaves of the result.

    Args:
      arguments: One for each of `feeds`: a tensor, or for a data set an object with a method
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


def _users(handle: tf.Tensor) -> Iterator[tf.Operation]:
  """The operations that use a variable's handle, directly or through identities."""
  for op in handle.consumers():
    if op.type == 'Identity':
      yield from _users(op.outputs[0])
    else:
      yield op
