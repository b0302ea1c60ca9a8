"""Rewrites gradients of TensorFlow's loops, such as a recurrent layer's, so that XLA compiles them.

The gradient of a `tf.while_loop` is a second loop, which pops values from lists that the first loop
pushed on them. If they are built outside XLA, for an unknown batch size, these loops have three
things that XLA refuses, although it knows all shapes when it compiles. They are replaced:
  * Lists without a maximum length: if a loop counts from 0 to a limit, the limit is the length.
  * The shape of a tensor, pushed and popped: the tensor itself is pushed instead, and its shape is
    computed where it is popped. XLA turns this into a constant and removes the list.
  * The length and element shape of an unchanging list, pushed in each step: the second loop gets
    them as inputs.
"""

from collections.abc import Iterator
import itertools
from typing import Any

import tensorflow as tf

_NEW_NAME = itertools.count()


def make_static(graph_def: tf.compat.v1.GraphDef) -> None:
  """Rewrites the loops in the top-level graph of `graph_def`."""
  functions = {f.signature.name: f for f in graph_def.library.function}
  scope = {node.name: node for node in graph_def.node}
  loops = [n for n in graph_def.node if n.op in ('StatelessWhile', 'While')]
  for loop in loops:
    limit = _limit(loop, scope, functions)
    for position, source in enumerate(loop.input):
      made = _made_by(source, scope)
      if made is None or made.op != 'EmptyTensorList' or limit is None:
        continue
      own = _add(graph_def.node, 'EmptyTensorList', [made.input[0], limit], made.attr)
      scope[own.name] = own
      loop.input[position] = own.name
      readers = [
        (reader, j)
        for reader in loops
        for j, s in enumerate(reader.input)
        if _output(s, scope) == (loop.name, position)
      ]
      if len(readers) == 1:
        _pop_static_shape(graph_def, loop, position, own, *readers[0], functions)


def _name(source: str) -> str:
  return source.split(':')[0].lstrip('^')


def _add(nodes: Any, op: str, inputs: list[str], attributes: Any) -> Any:
  node = nodes.add(op=op, name=f'tff_lowrank/{op}_{next(_NEW_NAME)}')
  node.input.extend(inputs)
  for name, value in attributes.items():
    node.attr[name].CopyFrom(value)
  return node


def _unknown_shape(nodes: Any) -> str:
  """The name of a new constant: the unknown element shape of a list."""
  node = _add(nodes, 'Const', [], {})
  node.attr['dtype'].type = tf.int32.as_datatype_enum
  node.attr['value'].tensor.CopyFrom(tf.make_tensor_proto(-1, tf.int32))
  return node.name


def _made_by(source: str, scope: dict[str, Any]) -> Any:
  """The node that makes a tensor, ignoring identities; None for a function's argument."""
  node = scope.get(_name(source))
  while node is not None and node.op == 'Identity':
    source = node.input[0]
    node = scope.get(_name(source))
  return node


def _output(source: str, scope: dict[str, Any]) -> tuple[str, int]:
  """The node and output number of a tensor in the top-level graph, ignoring identities."""
  while _name(source) in scope and scope[_name(source)].op == 'Identity':
    source = scope[_name(source)].input[0]
  name, _, number = source.partition(':')
  return name, int(number or 0)


def _argument(source: str, function: Any, scope: dict[str, Any]) -> int | None:
  """The position of the argument of `function` that a tensor is, ignoring identities, or None."""
  while _name(source) in scope and scope[_name(source)].op == 'Identity':
    source = scope[_name(source)].input[0]
  names = [arg.name for arg in function.signature.input_arg]
  return names.index(source) if source in names else None


def _constant(node: Any) -> Any:
  if node is not None and node.op == 'Const':
    return tf.make_ndarray(node.attr['value'].tensor)
  return None


def _results(function: Any) -> list[str]:
  return [function.ret[arg.name] for arg in function.signature.output_arg]


def _comparisons(source: str, scope: dict[str, Any]) -> Iterator[Any]:
  """The `Less` nodes that must all hold for the tensor `source` to be true."""
  node = _made_by(source, scope)
  if node is not None and node.op == 'LogicalAnd':
    for part in node.input[:2]:
      yield from _comparisons(part, scope)
  elif node is not None and node.op == 'Less':
    yield node


def _limit(loop: Any, scope: dict[str, Any], functions: dict[str, Any]) -> str | None:
  """The input of `loop` up to which it counts from 0 by ones; None if not recognised."""
  condition = functions[loop.attr['cond'].func.name]
  body = functions[loop.attr['body'].func.name]
  in_condition = {node.name: node for node in condition.node_def}
  in_body = {node.name: node for node in body.node_def}
  outputs = _results(body)
  for less in _comparisons(_results(condition)[0], in_condition):
    counter, limit = (_argument(s, condition, in_condition) for s in less.input[:2])
    if counter is None or limit is None:
      continue
    step = _made_by(outputs[counter], in_body)
    counts_by_one = (
      step is not None
      and step.op in ('Add', 'AddV2')
      and {_argument(s, body, in_body) for s in step.input[:2]} == {counter, None}
      and any(_constant(_made_by(s, in_body)) == 1 for s in step.input[:2])
    )
    starts_at_zero = _constant(_made_by(loop.input[counter], scope)) == 0
    is_fixed = _argument(outputs[limit], body, in_body) == limit
    if counts_by_one and starts_at_zero and is_fixed:
      return loop.input[limit]
  return None


def _pop_static_shape(
  graph_def: tf.compat.v1.GraphDef,
  loop: Any,
  position: int,
  empty: Any,
  reader: Any,
  read_position: int,
  functions: dict[str, Any],
) -> None:
  """Rewrites a list of shapes, from `loop`'s input `position` to that of `reader`."""
  body = functions[loop.attr['body'].func.name]
  in_body = {node.name: node for node in body.node_def}
  push = _made_by(_results(body)[position], in_body)
  reader_body = functions[reader.attr['body'].func.name]
  argument = reader_body.signature.input_arg[read_position].name
  pops = [n for n in reader_body.node_def if argument in n.input]
  is_plain = (
    push is not None
    and push.op == 'TensorListPushBack'
    and _argument(push.input[0], body, in_body) == position
    and len(pops) == 1
    and pops[0].op == 'TensorListPopBack'
  )
  value = _made_by(push.input[1], in_body) if is_plain else None
  if value is None:
    return
  if value.op == 'Shape' and value.attr['out_type'].type != tf.int64.as_datatype_enum:
    empty.input[0] = _unknown_shape(graph_def.node)
    empty.attr['element_dtype'].CopyFrom(value.attr['T'])
    _pop_tensor(push, value, reader_body, pops[0])
  elif value.op in ('TensorListElementShape', 'TensorListLength'):
    source = _argument(value.input[0], body, in_body)
    if source is not None and _argument(_results(body)[source], body, in_body) == source:
      fixed = _add(graph_def.node, value.op, [loop.input[source]], value.attr)
      condition = functions[reader.attr['cond'].func.name]
      _hand_over(graph_def, fixed, reader, read_position, reader_body, condition, pops[0])


def _replace(function: Any, old: str, new: str) -> None:
  for node in function.node_def:
    for i, source in enumerate(node.input):
      if source == old:
        node.input[i] = new
  for name, source in function.ret.items():
    if source == old:
      function.ret[name] = new


def _pop_tensor(push: Any, shape: Any, reader_body: Any, pop: Any) -> None:
  """Pushes the tensor in place of its `shape`, and computes the shape where it is popped."""
  push.input[1] = shape.input[0]
  for node in (push, pop):
    node.attr['element_dtype'].CopyFrom(shape.attr['T'])
  pop.input[1] = f'{_unknown_shape(reader_body.node_def)}:output:0'
  taken = _add(reader_body.node_def, 'Shape', [], shape.attr)
  _replace(reader_body, f'{pop.name}:tensor:0', f'{taken.name}:output:0')
  taken.input.append(f'{pop.name}:tensor:0')


def _hand_over(
  graph_def: tf.compat.v1.GraphDef,
  fixed: Any,
  reader: Any,
  position: int,
  reader_body: Any,
  condition: Any,
  pop: Any,
) -> None:
  """Gives the second loop the value `fixed` as an input, in place of a list of its copies."""
  reader.input[position] = fixed.name
  dtype = tf.int32.as_datatype_enum
  reader.attr['T'].list.type[position] = dtype
  # An input that the loop does not change stays a constant inside it.
  reader.attr['_xla_propagate_compile_time_consts'].b = True
  if reader.attr['output_shapes'].list.shape:
    reader.attr['output_shapes'].list.shape[position].CopyFrom(tf.TensorShape(None).as_proto())
  passed_on = {f'{reader.name}:{position}'}
  for node in graph_def.node:
    if node.op == 'Identity' and node.input[0] in passed_on:
      node.attr['T'].type = dtype
      passed_on |= {node.name, f'{node.name}:0'}
  argument = reader_body.signature.input_arg[position]
  argument.type = dtype
  condition.signature.input_arg[position].type = dtype
  result = reader_body.signature.output_arg[position]
  result.type = dtype
  _replace(reader_body, f'{pop.name}:tensor:0', argument.name)
  reader_body.ret[result.name] = argument.name
  reader_body.node_def.remove(pop)
