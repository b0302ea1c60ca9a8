"""Loops over data sets in TFF's graphs, and how they run in TensorFlow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tff_lowrank.execution import graph_defs
from tff_lowrank.execution import sequences


class Loop:
  """A `ReduceDataset` of the top graph.

  parameter: the position of the parameter's leaf that it reads, or None if the data set is
    computed in the graph.
  step: `(*state, *components of an element, *other_arguments) -> state`.
  over: `(state, other_arguments, stacked components) -> state`, one step for each element.
  component_specs: of the elements' components.
  The other attributes are names of the operation and of tensors.
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
    components = signature.input_arg[
      num_state : len(signature.input_arg) - len(self.other_arguments)
    ]
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
    self.over = graph_defs.Lazy(trace)


_LARGE_STATE_BYTES = 1 << 20


class Engine:
  """Decides how the graphs of a computation run. This one runs them in TensorFlow."""

  def graph(self, graph: Any) -> Any:
    """The form of a graph that this engine runs."""
    return graph

  def variables(self, graph: Any) -> list[tf.Tensor]:
    """Handles of variables for a graph that takes them as inputs."""
    raise NotImplementedError

  def loop(
    self, loop: Loop, source: Any, state: list[tf.Tensor], others: list[tf.Tensor]
  ) -> list[tf.Tensor]:
    """Runs a loop. Consecutive elements of equal shapes are stacked and processed together.

    Args:
      loop: The loop.
      source: The sequence that it reads, or the variant tensor of a computed data set.
      state: The state before the first step.
      others: The arguments that are the same in each step.
    """
    if isinstance(source, tf.Tensor):
      pieces = sequences.chunks(sequences.read_variant(source, loop.component_specs))
    else:
      pieces = source.chunks()
    # TensorFlow's loops copy their state in each step. For large models this takes longer than
    # calling each step from Python.
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
