"""Turns an XLA program into a jax function, which `jax.vmap` can run for many clients at once.

TensorFlow's XLA compiler gives the part of a round that one client runs as an `HloModuleProto`.
Most of its instructions correspond to an operation of `jax.lax`, for which jax has a batching rule;
convolutions and the gradients of pooling are in `hlo_windows`. A loop that counts up to a constant
becomes a loop of known length: on a GPU, other loops wait for the host before each step.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from tff_lowrank.execution import hlo_elements
from tff_lowrank.execution import hlo_loops
from tff_lowrank.execution import hlo_types
from tff_lowrank.execution import hlo_windows

PRECISIONS = ('float32', 'tf32', 'bfloat16')


# Operations that are computed during translation if their operands are small constants, besides
# those of single elements.
_FOLDED = frozenset(
  ['broadcast', 'compare', 'concatenate', 'convert', 'reduce', 'reshape', 'select', 'slice']
)
_MAX_FOLDED = 16


class Function:
  """An `HloModuleProto` as a function from arrays to a list of arrays.

  Under `jax.vmap`, each operation runs for all clients at once.
  """

  def __init__(self, serialized: bytes, precision: str = 'float32'):
    """`precision`: of float32 products and convolutions; one of `PRECISIONS`."""
    module = hlo_types.HloModuleProto.FromString(serialized)
    self._computations = {c.id: c for c in module.computations}
    self._entry = module.entry_computation_id
    self._dot_general = functools.partial(_dot_general, precision=precision)
    self._kinds = hlo_types.kinds(module)
    for computation in module.computations:
      for instruction in computation.instructions:
        if any(instruction.shape.is_dynamic_dimension):
          raise hlo_types.UnsupportedError('an array whose shape depends on its values')

  def is_sum(self, count: int) -> bool:
    """Whether its results are the first `count` arguments plus the other arguments."""
    computation = self._computations[self._entry]
    instructions = {i.id: i for i in computation.instructions}

    def source(number: int) -> Any:
      instruction = instructions[number]
      while instruction.opcode in ('copy', 'set-dimension-size') or (
        instruction.opcode == 'reshape'
        and hlo_types.shape(instruction)
        == hlo_types.shape(instructions[instruction.operand_ids[0]])
      ):
        instruction = instructions[instruction.operand_ids[0]]
      return instruction

    root = source(computation.root_id)
    results = list(root.operand_ids)[:count] if root.opcode == 'tuple' else [root.id]
    for position, result in enumerate(map(source, results)):
      terms = [source(i) for i in result.operand_ids]
      if result.opcode != 'add' or any(term.opcode != 'parameter' for term in terms):
        return False
      if {term.parameter_number for term in terms} != {position, count + position}:
        return False
    return len(results) == count

  def __call__(self, *arguments: Any) -> list[Any]:
    result = self._run(self._entry, arguments)
    return list(result) if isinstance(result, (list, tuple)) else [result]

  # -- Computations ------------------------------------------------------------------------

  def _run(self, computation_id: int, arguments: Sequence[Any]) -> Any:
    """The root of a computation. Equal instructions are evaluated once."""
    computation = self._computations[computation_id]
    values, done = {}, {}
    for instruction in computation.instructions:
      if instruction.opcode == 'parameter':
        values[instruction.id] = arguments[instruction.parameter_number]
        continue
      operands = [values[i] for i in instruction.operand_ids]
      key = (self._kinds[instruction.id], *map(id, operands))
      if key not in done:
        done[key] = self._instruction(instruction, operands)
      values[instruction.id] = done[key]
    return values[computation.root_id]

  def _instruction(self, instruction: Any, operands: list[Any]) -> Any:
    if operands and all(isinstance(x, np.ndarray) and x.size <= _MAX_FOLDED for x in operands):
      if (
        instruction.opcode in hlo_elements.UNARY | hlo_elements.BINARY
        or instruction.opcode in _FOLDED
      ):
        # A result of constants stays a constant: it may be the limit of a loop.
        with jax.ensure_compile_time_eval():
          return np.asarray(self._operation(instruction, operands))
    return self._operation(instruction, operands)

  def _operation(self, instruction: Any, operands: list[Any]) -> Any:
    opcode = instruction.opcode
    if opcode in hlo_elements.UNARY:
      return hlo_elements.UNARY[opcode](*operands)
    if opcode in hlo_elements.BINARY:
      return hlo_elements.BINARY[opcode](*operands)
    method = getattr(self, '_' + opcode.replace('-', '_'), None)
    if method is None:
      target = f' {instruction.custom_call_target}' if opcode == 'custom-call' else ''
      raise hlo_types.UnsupportedError(f'the instruction {opcode}{target}')
    return method(instruction, *operands)

  def _region(self, computation_id: int) -> Callable[..., Any]:
    """A computation of scalars, as jax's own function if it is a single operation."""
    name = self._single_operation(computation_id)
    if name in hlo_elements.BINARY:
      return hlo_elements.BINARY[name]
    return lambda *arguments: self._run(computation_id, arguments)

  def _single_operation(self, computation_id: int) -> str | None:
    computation = self._computations[computation_id]
    rest = [i for i in computation.instructions if i.opcode != 'parameter']
    parameters = {i.id: i.parameter_number for i in computation.instructions}
    if len(rest) != 1 or [parameters[i] for i in rest[0].operand_ids] != [0, 1]:
      return None
    return rest[0].opcode if rest[0].opcode != 'compare' else rest[0].comparison_direction

  # -- Structure and shape -----------------------------------------------------------------

  def _tuple(self, instruction: Any, *operands: Any) -> list[Any]:
    return list(operands)

  def _get_tuple_element(self, instruction: Any, operand: Any) -> Any:
    return operand[instruction.tuple_index]

  def _constant(self, instruction: Any) -> Any:
    return hlo_types.literal(instruction.literal)

  def _iota(self, instruction: Any) -> Any:
    dtype = hlo_types.DTYPES[instruction.shape.element_type]
    return lax.broadcasted_iota(dtype, hlo_types.shape(instruction), instruction.dimensions[0])

  def _broadcast(self, instruction: Any, x: Any) -> Any:
    return lax.broadcast_in_dim(x, hlo_types.shape(instruction), instruction.dimensions)

  def _reshape(self, instruction: Any, x: Any) -> Any:
    return lax.reshape(x, hlo_types.shape(instruction))

  def _transpose(self, instruction: Any, x: Any) -> Any:
    return lax.transpose(x, instruction.dimensions)

  def _reverse(self, instruction: Any, x: Any) -> Any:
    return lax.rev(x, instruction.dimensions)

  def _concatenate(self, instruction: Any, *operands: Any) -> Any:
    return lax.concatenate(operands, instruction.dimensions[0])

  def _slice(self, instruction: Any, x: Any) -> Any:
    dims = instruction.slice_dimensions
    return lax.slice(x, [d.start for d in dims], [d.limit for d in dims], [d.stride for d in dims])

  def _pad(self, instruction: Any, x: Any, value: Any) -> Any:
    dims = instruction.padding_config.dimensions
    return lax.pad(
      x, value, [(d.edge_padding_low, d.edge_padding_high, d.interior_padding) for d in dims]
    )

  def _dynamic_slice(self, instruction: Any, x: Any, *starts: Any) -> Any:
    return lax.dynamic_slice(x, starts, instruction.dynamic_slice_sizes)

  def _dynamic_update_slice(self, instruction: Any, x: Any, update: Any, *starts: Any) -> Any:
    return lax.dynamic_update_slice(x, update, starts)

  def _set_dimension_size(self, instruction: Any, x: Any, size: Any) -> Any:
    if not isinstance(size, np.ndarray) or size != x.shape[instruction.dimensions[0]]:
      raise hlo_types.UnsupportedError('an array whose shape depends on its values')
    return x

  # -- Elements ----------------------------------------------------------------------------

  def _convert(self, instruction: Any, x: Any) -> Any:
    return lax.convert_element_type(x, hlo_types.DTYPES[instruction.shape.element_type])

  def _bitcast_convert(self, instruction: Any, x: Any) -> Any:
    return lax.bitcast_convert_type(x, hlo_types.DTYPES[instruction.shape.element_type])

  def _reduce_precision(self, instruction: Any, x: Any) -> Any:
    return lax.reduce_precision(x, instruction.exponent_bits, instruction.mantissa_bits)

  def _compare(self, instruction: Any, a: Any, b: Any) -> Any:
    return hlo_elements.COMPARE[instruction.comparison_direction](a, b)

  def _select(self, instruction: Any, which: Any, yes: Any, no: Any) -> Any:
    return lax.select(which, yes, no)

  def _clamp(self, instruction: Any, low: Any, x: Any, high: Any) -> Any:
    return lax.clamp(low, x, high)

  # -- Sums, products and windows ----------------------------------------------------------

  def _dot(self, instruction: Any, a: Any, b: Any) -> Any:
    dims = instruction.dot_dimension_numbers
    contracting = (tuple(dims.lhs_contracting_dimensions), tuple(dims.rhs_contracting_dimensions))
    batch = (tuple(dims.lhs_batch_dimensions), tuple(dims.rhs_batch_dimensions))
    result = self._dot_general(a, b, (contracting, batch))
    return lax.convert_element_type(result, hlo_types.DTYPES[instruction.shape.element_type])

  def _convolution(self, instruction: Any, x: Any, filters: Any) -> Any:
    return hlo_windows.of_instruction(instruction, self._dot_general)(x, filters)

  def _reduce(self, instruction: Any, *operands: Any) -> Any:
    count = len(operands) // 2
    region = self._region(instruction.called_computation_ids[0])
    axes = tuple(instruction.dimensions)
    if count == 1:
      return lax.reduce(operands[0], operands[1], region, axes)
    combine = lambda a, b: tuple(region(*a, *b))  # noqa: E731
    return list(lax.reduce(operands[:count], operands[count:], combine, axes))

  def _reduce_window(self, instruction: Any, x: Any, initial: Any) -> Any:
    of = hlo_windows.window(instruction.window)
    region = self._region(instruction.called_computation_ids[0])
    return lax.reduce_window(
      x, initial, region, of.sizes, of.strides, of.padding, of.base_dilation, of.dilation
    )

  def _select_and_scatter(self, instruction: Any, x: Any, source: Any, initial: Any) -> Any:
    select, scatter = instruction.called_computation_ids
    of = hlo_windows.window(instruction.window)
    is_plain = (
      self._single_operation(select) == 'GE'
      and self._single_operation(scatter) == 'add'
      and isinstance(initial, np.ndarray)
      and initial == 0
      and all(low >= 0 and high >= 0 for low, high in of.padding)
    )
    if not is_plain:
      raise hlo_types.UnsupportedError('the gradient of a pooling that is not a maximum')
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return hlo_windows.gradient_of_max(x, source, of, np.array(lowest, x.dtype))

  def _gather(self, instruction: Any, x: Any, indices: Any) -> Any:
    dims = instruction.gather_dimension_numbers
    numbers = lax.GatherDimensionNumbers(
      tuple(dims.offset_dims), tuple(dims.collapsed_slice_dims), tuple(dims.start_index_map)
    )
    return lax.gather(
      x,
      _indices_last(indices, dims.index_vector_dim),
      numbers,
      tuple(instruction.gather_slice_sizes),
      mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,  # XLA's own gather clamps.
    )

  def _scatter(self, instruction: Any, x: Any, indices: Any, updates: Any) -> Any:
    name = self._single_operation(instruction.called_computation_ids[0])
    if name in _SCATTERS:
      scatter = _SCATTERS[name]
    elif self._takes_second(instruction.called_computation_ids[0]):
      scatter = lax.scatter
    else:
      raise hlo_types.UnsupportedError('a scatter that is not a sum, product, minimum or maximum')
    dims = instruction.scatter_dimension_numbers
    numbers = lax.ScatterDimensionNumbers(
      tuple(dims.update_window_dims),
      tuple(dims.inserted_window_dims),
      tuple(dims.scatter_dims_to_operand_dims),
    )
    return scatter(
      x,
      _indices_last(indices, dims.index_vector_dim),
      updates,
      numbers,
      indices_are_sorted=instruction.indices_are_sorted,
      unique_indices=instruction.unique_indices,
      mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,  # XLA's own ignores what is out of bounds.
    )

  def _takes_second(self, computation_id: int) -> bool:
    computation = self._computations[computation_id]
    root = next(i for i in computation.instructions if i.id == computation.root_id)
    return root.opcode == 'parameter' and root.parameter_number == 1

  def _sort(self, instruction: Any, *operands: Any) -> Any:
    computation = self._computations[instruction.called_computation_ids[0]]
    by_id = {i.id: i for i in computation.instructions}
    root = by_id[computation.root_id]
    while root.opcode == 'select':  # With a constant condition, as in `tf.math.top_k`.
      which = by_id[root.operand_ids[0]]
      which = by_id[which.operand_ids[0]] if which.opcode == 'broadcast' else which
      if which.opcode != 'constant':
        break
      root = by_id[root.operand_ids[1 if hlo_types.literal(which.literal) else 2]]
    numbers = {i.id: i.parameter_number for i in by_id.values() if i.opcode == 'parameter'}
    compared = [numbers.get(i, -1) for i in root.operand_ids]
    if root.opcode != 'compare' or -1 in compared or compared[1] != compared[0] + 1:
      raise hlo_types.UnsupportedError('a sort by more than one key')
    key = hlo_elements.total_order(operands[compared[0] // 2])
    if root.comparison_direction in ('GT', 'GE'):
      key = lax.bitwise_not(key)
    axis, is_stable = instruction.dimensions[0], instruction.is_stable
    result = lax.sort((key, *operands), dimension=axis, is_stable=is_stable, num_keys=1)[1:]
    return list(result) if len(operands) > 1 else result[0]

  def _cholesky(self, instruction: Any, x: Any) -> Any:
    lower = instruction.cholesky_options.lower
    factor = lax.linalg.cholesky(x if lower else jnp.swapaxes(x, -1, -2))
    return factor if lower else jnp.swapaxes(factor, -1, -2)

  # -- Control flow ------------------------------------------------------------------------

  def _call(self, instruction: Any, *operands: Any) -> Any:
    return self._run(instruction.called_computation_ids[0], operands)

  def _conditional(self, instruction: Any, which: Any, *operands: Any) -> Any:
    branches = [functools.partial(self._run, i) for i in instruction.called_computation_ids]
    calls = [
      functools.partial(lambda branch, operand, _: branch([operand]), branch, operand)
      for branch, operand in zip(branches, operands, strict=True)
    ]
    if which.dtype == bool:  # XLA's order is true, false.
      return lax.cond(which, calls[0], calls[1], 0)
    is_in_range = (which >= 0) & (which < len(calls))
    return lax.switch(
      lax.select(is_in_range, which, jnp.full_like(which, len(calls) - 1)), calls, 0
    )

  def _while(self, instruction: Any, initial: list[Any]) -> Any:
    body, condition = instruction.called_computation_ids
    loop = hlo_loops.Loop(self._computations, self._kinds, condition, body, initial)
    # Parts that the loop does not change are not passed as state, so that constants stay constants;
    # nor are parts that are always equal to another part.
    varying = [i for i in range(len(initial)) if i not in loop.fixed and loop.same[i] == i]

    def whole(state: Sequence[Any]) -> list[Any]:
      values = dict(zip(varying, state, strict=True))
      return [values.get(loop.same[i], initial[i]) for i in range(len(initial))]

    def step(state: Sequence[Any]) -> tuple[Any, ...]:
      after = self._run(body, [whole(state)])
      return tuple(after[i] for i in varying)

    state = tuple(jax.tree_util.tree_map(jnp.asarray, initial[i]) for i in varying)
    trips = loop.trips()
    if trips is None:
      done = lax.while_loop(lambda state: self._run(condition, [whole(state)]), step, state)
    elif trips <= 1:
      done = step(state) if trips else state
    else:
      done = lax.fori_loop(0, trips, lambda _, state: step(state), state)
    if trips is not None:
      done = [
        value if (last := loop.after(i, trips)) is None else last
        for i, value in zip(varying, done, strict=True)
      ]
    return whole(done)


_SCATTERS = {
  'add': lax.scatter_add,
  'maximum': lax.scatter_max,
  'minimum': lax.scatter_min,
  'multiply': lax.scatter_mul,
}


def _indices_last(indices: Any, axis: int) -> Any:
  """Indices of gather and scatter in jax's form, with the index vectors in the last axis."""
  if axis == indices.ndim:
    return jnp.expand_dims(indices, -1)
  return jnp.moveaxis(indices, axis, -1)


def _dot_general(a: Any, b: Any, dims: Any, precision: str) -> Any:
  if a.dtype != jnp.float32 or precision == 'tf32':
    return lax.dot_general(a, b, dims)
  if precision == 'bfloat16':
    a, b = (lax.convert_element_type(x, jnp.bfloat16) for x in (a, b))
    return lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
  return lax.dot_general(a, b, dims, precision=lax.Precision.HIGHEST)
