"""Removes assertions on shapes from graphs for XLA, which cannot run all operations in them.

XLA knows all shapes when it compiles, and TensorFlow checked them when it traced. So assertions
that depend on shapes and constants only are removed, with the operations that only they need. Other
assertions stay. A graph with one does not run in XLA, because XLA would ignore the assertion.
"""

import collections
from collections.abc import Callable
import itertools
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import native


def shape_assertions(graph_def: tf.compat.v1.GraphDef) -> set[tuple[str, str]]:
  """The assertions whose conditions depend on shapes and constants only.

  Each is a pair: the name of the function that it is in (`''` for the graph itself), and its name.
  A function's arguments are traced back to its callers, which include conditional branches.
  """
  scopes = {'': {node.name: node for node in graph_def.node}}
  arguments = {}
  for function in graph_def.library.function:
    scopes[function.signature.name] = {node.name: node for node in function.node_def}
    arguments[function.signature.name] = [arg.name for arg in function.signature.input_arg]
  calls = collections.defaultdict(list)  # By function: the scopes that call it, and the inputs.
  for scope, nodes in scopes.items():
    for node in nodes.values():
      if node.op in scopes:
        calls[node.op].append((scope, node.input))
      for value in node.attr.values():
        for called in itertools.chain([value.func], value.list.func):
          if called.name in scopes:
            calls[called.name].append((scope, _INPUTS_OF_CALLS.get(node.op, _none)(node)))

  def follows(scope: str, source: str, seen: set[tuple[str, str]]) -> bool:
    name = source.split(':')[0].lstrip('^')
    if (scope, name) in seen:
      return True
    seen.add((scope, name))
    node = scopes[scope].get(name)
    if node is None:  # An argument of the function.
      position = arguments[scope].index(name)
      return len(calls[scope]) > 0 and all(
        inputs is not None and follows(where, inputs[position], seen)
        for where, inputs in calls[scope]
      )
    if node.op in ('Const', 'Rank', 'Shape', 'ShapeN', 'Size'):
      return True
    if node.op == 'Placeholder' or not node.input:
      return False
    return all(follows(scope, source, seen) for source in node.input)

  return {
    (scope, node.name)
    for scope, nodes in scopes.items()
    for node in nodes.values()
    if node.op == 'Assert' and follows(scope, node.input[0], set())
  }


def _none(node: Any) -> None:
  del node


# The inputs that an operation passes unchanged to the functions that it calls. Other operations
# change them, or may.
_INPUTS_OF_CALLS = {
  **dict.fromkeys(('PartitionedCall', 'StatefulPartitionedCall'), lambda node: node.input),
  **dict.fromkeys(('Case', 'If', 'StatelessCase', 'StatelessIf'), lambda node: node.input[1:]),
}


def remove_shape_assertions(graph_def: tf.compat.v1.GraphDef) -> None:
  """Removes the assertions of `shape_assertions`, and the operations that only they need."""
  doomed = shape_assertions(graph_def)
  if not doomed:
    return
  scopes = {'': graph_def.node} | {f.signature.name: f.node_def for f in graph_def.library.function}
  for scope, nodes in scopes.items():
    for node in nodes:
      if (scope, node.name) in doomed:
        node.op = 'NoOp'
        node.attr.clear()
        del node.input[:]
  is_stateful = _mark_stateless(scopes)
  _Scope(graph_def.node, is_stateful).loosen()
  for function in graph_def.library.function:
    body = _Scope(function.node_def, is_stateful)
    body.loosen()
    for name in [n for n, node in function.control_ret.items() if node not in body.stateful]:
      del function.control_ret[name]
    kept = [n for n in function.signature.control_output if n in function.control_ret]
    function.signature.control_output[:] = kept
    body.keep([*function.ret.values(), *function.control_ret.values()])


_STATELESS = dict(
  Case='StatelessCase',
  If='StatelessIf',
  StatefulPartitionedCall='PartitionedCall',
  While='StatelessWhile',
)


def _mark_stateless(scopes: dict[str, Any]) -> Callable[[Any], bool]:
  """Makes calls of functions without side effects stateless. Returns: whether a node has one."""

  def has_effect(node: Any) -> bool:
    called = _called(node) & scopes.keys()
    if node.op in scopes or called:
      return any(name in effects for name in called | {node.op})
    return node.op != 'Placeholder' and native.is_stateful_op(node.op)

  effects = set(scopes)
  while True:
    without = {name for name in effects if not any(has_effect(n) for n in scopes[name])}
    # At first every function is assumed to have effects; callees are cleared before their callers.
    if not without:
      break
    effects -= without
  for nodes in scopes.values():
    for node in nodes:
      if node.op in _STATELESS and not has_effect(node):
        node.op = _STATELESS[node.op]
  return has_effect


def _called(node: Any) -> set[str]:
  values = node.attr.values()
  return {f.name for v in values for f in itertools.chain([v.func], v.list.func) if f.name}


class _Scope:
  """The nodes of a graph or a function. stateful: the names of those with side effects."""

  def __init__(self, nodes: Any, is_stateful: Callable[[Any], bool]):
    self._nodes = nodes
    self._by_name = {node.name: node for node in nodes}
    self.stateful = {node.name for node in nodes if is_stateful(node)}

  def loosen(self) -> None:
    """Replaces control inputs by the nodes with side effects that they depend on."""
    before: dict[str, frozenset[str]] = {}

    def effects_before(name: str) -> frozenset[str]:
      """The nearest nodes with side effects that `name` depends on; itself, if it has one."""
      if name in self.stateful or name not in self._by_name:
        return frozenset([name] if name in self.stateful else [])
      if name not in before:
        before[name] = frozenset()  # In a cycle.
        sources = {_source(s) for s in self._by_name[name].input}
        before[name] = frozenset().union(*map(effects_before, sources))
      return before[name]

    new_inputs = {}
    for node in self._nodes:
      kept = [s for s in node.input if not s.startswith('^')]
      waits = [effects_before(s[1:]) for s in node.input if s.startswith('^')]
      new_inputs[node.name] = kept + sorted(f'^{name}' for name in frozenset().union(*waits))
    for node in self._nodes:
      node.input[:] = new_inputs[node.name]

  def keep(self, results: list[str]) -> None:
    """Removes nodes that have no side effects and are not needed for `results`."""
    todo = [*map(_source, results), *self.stateful]
    needed = set()
    while todo:
      name = todo.pop()
      if name in self._by_name and name not in needed:
        needed.add(name)
        todo += map(_source, self._by_name[name].input)
    kept = [node for node in self._nodes if node.name in needed]
    if len(kept) < len(self._nodes):
      copies = [type(node).FromString(node.SerializeToString()) for node in kept]
      del self._nodes[:]
      self._nodes.extend(copies)


def _source(name: str) -> str:
  return name.split(':')[0].lstrip('^')
