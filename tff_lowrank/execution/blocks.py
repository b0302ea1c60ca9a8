"""TFF's building blocks as Python functions.

A building block becomes a function from an environment, a dictionary from names to values, to a
value. A value is a tensor, a list (a struct), a sequence (see `sequences`), or a function of one
value. A client's part of a round runs for one client at a time: a value placed at clients is then
this client's value, a federated map is a call, and a broadcast does nothing. `plan` decides which
steps run at the server and which at clients.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import graphs
from tff_lowrank.execution import sequences

# The name in an environment of the `loops.Engine` that runs its graphs.
ENGINE = '@engine'

Environment = dict[str, Any]
Block = Callable[[Environment], Any]


class UnsupportedError(NotImplementedError):
  """A computation has a part that neither this context nor TFF's stock context runs."""


class Compiler:
  """Compiles building blocks. graphs: the TensorFlow graphs of all compiled blocks."""

  def __init__(self):
    self.graphs: list[graphs.GraphFunction] = []

  def compile(self, block: tff.framework.ComputationBuildingBlock) -> Block:
    """`block` as a function of an environment."""
    for kind, compile_kind in self._KINDS.items():
      if isinstance(block, kind):
        return compile_kind(self, block)
    raise UnsupportedError(f'Unexpected building block {type(block).__name__}: {block}.')

  def _reference(self, block: tff.framework.Reference) -> Block:
    name = block.name
    return lambda env: env[name]

  def _selection(self, block: tff.framework.Selection) -> Block:
    source, index = self.compile(block.source), block.as_index()
    return lambda env: source(env)[index]

  def _struct(self, block: tff.framework.Struct) -> Block:
    items = [self.compile(value) for _, value in tff.structure.iter_elements(block)]
    return lambda env: [item(env) for item in items]

  def _literal(self, block: tff.framework.Literal) -> Block:
    value, dtype = block.value, block.type_signature.dtype
    return lambda env: tf.constant(value, tf.as_dtype(dtype))

  def _lambda(self, block: tff.framework.Lambda) -> Block:
    name, result = block.parameter_name, self.compile(block.result)
    if name is None:
      return lambda env: lambda _: result(env)
    return lambda env: lambda argument: result({**env, name: argument})

  def _block(self, block: tff.framework.Block) -> Block:
    local_values = [(name, self.compile(value)) for name, value in block.locals]
    result = self.compile(block.result)

    def run(env: Environment) -> Any:
      env = dict(env)
      for name, value in local_values:
        env[name] = value(env)
      return result(env)

    return run

  def _call(self, block: tff.framework.Call) -> Block:
    function = self.compile(block.function)
    if block.argument is None:
      return lambda env: function(env)(None)
    argument = self.compile(block.argument)
    return lambda env: function(env)(argument(env))

  def _graph(self, block: tff.framework.CompiledComputation) -> Block:
    kind = block.proto.WhichOneof('computation')
    if kind != 'tensorflow':
      raise UnsupportedError(f'Expected a TensorFlow computation, found one of kind {kind}.')
    graph = graphs.GraphFunction(block.proto.tensorflow)
    self.graphs.append(graph)
    result_type = block.type_signature.result
    element_types = [t.element for t in _leaf_types(result_type) if isinstance(t, tff.SequenceType)]

    def run(env: Environment) -> Any:
      engine = env[ENGINE]

      def call(argument: Any) -> Any:
        arguments = [] if argument is None else sequences.flatten(argument)
        types = iter(element_types)
        results = engine.graph(graph)(arguments, engine)
        leaves = (
          sequences.Variant(leaf, next(types))
          if is_sequence and isinstance(leaf, tf.Tensor)
          else leaf
          for leaf, (_, is_sequence) in zip(results, graph.fetches, strict=True)
        )
        return sequences.pack(leaves, result_type)

      return call

    return run

  def _intrinsic(self, block: tff.framework.Intrinsic) -> Block:
    uri = block.uri
    if uri in _INTRINSICS:
      intrinsic = _INTRINSICS[uri]
    elif uri in _TYPED_INTRINSICS:
      intrinsic = _TYPED_INTRINSICS[uri](block.type_signature)
    else:
      raise UnsupportedError(f'Unexpected intrinsic {uri}.')
    return lambda env: intrinsic

  _KINDS: ClassVar = {
    tff.framework.Reference: _reference,
    tff.framework.Selection: _selection,
    tff.framework.Struct: _struct,
    tff.framework.Literal: _literal,
    tff.framework.Lambda: _lambda,
    tff.framework.Block: _block,
    tff.framework.Call: _call,
    tff.framework.CompiledComputation: _graph,
    tff.framework.Intrinsic: _intrinsic,
  }


def _leaf_types(type_spec: tff.Type) -> list[tff.Type]:
  if isinstance(type_spec, tff.StructType):
    return [leaf for t in type_spec for leaf in _leaf_types(t)]
  return [type_spec]


def _apply(argument: list[Any]) -> Any:
  function, value = argument
  return function(value)


def _identity(value: Any) -> Any:
  return value


def _evaluate(function: Callable[[None], Any]) -> Any:
  return function(None)


def _select(type_spec: tff.FunctionType) -> Callable[[list[Any]], Any]:
  """A federated select: each of a client's keys selects one element of its sequence."""
  element_type = type_spec.result.member.element

  def select(argument: list[Any]) -> Any:
    keys, max_key, server_value, select_fn = argument
    del max_key  # The select function checks that keys are not larger.
    chosen = [select_fn([server_value, key]) for key in tf.unstack(keys)]
    return sequences.Elements(chosen, element_type)

  return select


def _sequence_map(type_spec: tff.FunctionType) -> Callable[[list[Any]], Any]:
  source_type, result_type = type_spec.parameter[1].element, type_spec.result.element

  def sequence_map(argument: list[Any]) -> Any:
    function, sequence = argument
    mapped = [function(value) for value in sequences.values(sequence, source_type)]
    return sequences.Elements(mapped, result_type)

  return sequence_map


def _sequence_reduce(type_spec: tff.FunctionType) -> Callable[[list[Any]], Any]:
  element_type = type_spec.parameter[0].element

  def sequence_reduce(argument: list[Any]) -> Any:
    sequence, total, function = argument
    for value in sequences.values(sequence, element_type):
      total = function([total, value])
    return total

  return sequence_reduce


def _sequence_sum(type_spec: tff.FunctionType) -> Callable[[Any], Any]:
  element_type = type_spec.parameter.element

  def sequence_sum(sequence: Any) -> Any:
    leaf_types = _leaf_types(element_type)
    totals = [tf.zeros(t.shape, tf.as_dtype(t.dtype)) for t in leaf_types]
    for value in sequences.values(sequence, element_type):
      totals = [a + b for a, b in zip(totals, sequences.flatten(value), strict=True)]
    return sequences.pack(iter(totals), element_type)

  return sequence_sum


_INTRINSICS = {
  'federated_apply': _apply,
  'federated_map': _apply,
  'federated_map_all_equal': _apply,
  'federated_broadcast': _identity,
  'federated_value_at_clients': _identity,
  'federated_value_at_server': _identity,
  'federated_zip_at_clients': _identity,
  'federated_zip_at_server': _identity,
  'federated_eval_at_clients': _evaluate,
  'federated_eval_at_server': _evaluate,
}
_TYPED_INTRINSICS = {
  'federated_select': _select,
  'sequence_map': _sequence_map,
  'sequence_reduce': _sequence_reduce,
  'sequence_sum': _sequence_sum,
}
