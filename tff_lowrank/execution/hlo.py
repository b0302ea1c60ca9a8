"""An XLA program as a function of jax, so that `jax.vmap` can make it one of many clients.

TensorFlow's bridge gives the part of a round that one client runs as an `HloModuleProto`. Each of
its instructions is, or is nearly, an operation of `jax.lax`, for which jax has a batching rule;
convolutions and the gradients of pooling are those of `hlo_windows`. A loop that plainly counts
up to a constant becomes one of known length: on a GPU the others ask the host before each step.
"""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap
import jax.numpy as jnp
import numpy as np

# The schema of HLO, which TensorFlow keeps under a private name.
from tensorflow.compiler.xla import xla_data_pb2
from tensorflow.compiler.xla.service import hlo_pb2

from tff_lowrank.execution import hlo_windows

PRECISIONS = ('float32', 'tf32', 'bfloat16')


class UnsupportedError(NotImplementedError):
  """An instruction that is not translated."""


_DTYPES = {
  getattr(xla_data_pb2, name): np.dtype(dtype)
  for name, dtype in dict(
    PRED=bool, S8='int8', S16='int16', S32='int32', S64='int64', U8='uint8', U16='uint16',
    U32='uint32', U64='uint64', F16='float16', BF16=jnp.bfloat16, F32='float32', F64='float64',
    C64='complex64', C128='complex128',
  ).items()
}  # fmt: skip

_LITERALS = dict(
  PRED='preds', S8='s8s', S16='s16s', S32='s32s', S64='s64s', U8='u8s', U16='u16s', U32='u32s',
  U64='u64s', F16='f16s', BF16='bf16s', F32='f32s', F64='f64s',
)  # fmt: skip

_UNARY = {
  'abs': lax.abs, 'cbrt': lax.cbrt, 'ceil': lax.ceil, 'copy': lambda x: x, 'cosine': lax.cos,
  'count-leading-zeros': lax.clz, 'exponential': lax.exp, 'exponential-minus-one': lax.expm1,
  'floor': lax.floor, 'imag': lax.imag, 'is-finite': lax.is_finite, 'log': lax.log,
  'log-plus-one': lax.log1p, 'logistic': lax.logistic, 'negate': lax.neg, 'not': lax.bitwise_not,
  'optimization-barrier': lambda x: x, 'popcnt': lax.population_count, 'real': lax.real,
  'round-nearest-even': lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN),
  'round-nearest-afz': lax.round, 'rsqrt': lax.rsqrt, 'sign': lax.sign, 'sine': lax.sin,
  'sqrt': lax.sqrt, 'tan': lax.tan, 'tanh': lax.tanh,
}  # fmt: skip

_BINARY = {
  'add': lax.add, 'and': lax.bitwise_and, 'atan2': lax.atan2, 'complex': lax.complex,
  'divide': lax.div, 'maximum': lax.max, 'minimum': lax.min, 'multiply': lax.mul,
  'or': lax.bitwise_or, 'power': lax.pow, 'remainder': lax.rem, 'shift-left': lax.shift_left,
  'shift-right-arithmetic': lax.shift_right_arithmetic,
  'shift-right-logical': lax.shift_right_logical, 'subtract': lax.sub, 'xor': lax.bitwise_xor,
}  # fmt: skip

_COMPARE = dict(EQ=lax.eq, NE=lax.ne, LT=lax.lt, LE=lax.le, GT=lax.gt, GE=lax.ge)


def _literal(literal: Any) -> Any:
  shape = literal.shape
  if shape.element_type == xla_data_pb2.TUPLE:
    return [_literal(item) for item in literal.tuple_literals]
  name = xla_data_pb2.PrimitiveType.Name(shape.element_type)
  if name not in _LITERALS:
    raise UnsupportedError(f'a constant of {name}')
  dtype, data = _DTYPES[shape.element_type], getattr(literal, _LITERALS[name])
  flat = np.frombuffer(data, dtype) if isinstance(data, bytes) else np.array(data, dtype)
  # Stored with the fastest axis first in the layout.
  order = list(shape.layout.minor_to_major)[::-1] or list(range(len(shape.dimensions)))
  stored = flat.reshape([shape.dimensions[axis] for axis in order])
  return np.array(stored.transpose(np.argsort(order)), order='C')


def _shape(instruction: Any) -> tuple[int, ...]:
  return tuple(instruction.shape.dimensions)


class Function:
  """An `HloModuleProto` as a function from arrays to a list of arrays.

  Called under `jax.vmap`, its operations are of all clients at once.

  may_vary: whether a GPU may give other digits each time: whether it scatters, in any order.
  """

  def __init__(self, serialized: bytes, precision: str = 'float32'):
    """`precision` of products and convolutions of float32; one of `PRECISIONS`."""
    module = hlo_pb2.HloModuleProto.FromString(serialized)
    self._computations = {c.id: c for c in module.computations}
    self._entry = module.entry_computation_id
    self._dot_general = functools.partial(_dot_general, precision=precision)
    self.may_vary = False
    for computation in module.computations:
      for instruction in computation.instructions:
        self.may_vary |= instruction.opcode == 'scatter'
        if any(instruction.shape.is_dynamic_dimension):
          raise UnsupportedError('an array whose shape depends on its values')

  def is_sum(self, count: int) -> bool:
    """Whether its results are the sums of its first `count` arguments and its others."""
    computation = self._computations[self._entry]
    instructions = {i.id: i for i in computation.instructions}

    def source(number: int) -> Any:
      instruction = instructions[number]
      while instruction.opcode in ('copy', 'set-dimension-size') or (
        instruction.opcode == 'reshape'
        and _shape(instruction) == _shape(instructions[instruction.operand_ids[0]])
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

  def _run(self, computation_id: int, arguments: Sequence[Any], given: Any = None) -> Any:
    """The root of a computation; `given` has the values of instructions that are known."""
    computation = self._computations[computation_id]
    values = dict(given or {})
    for instruction in computation.instructions:
      if instruction.id in values:
        continue
      if instruction.opcode == 'parameter':
        value = arguments[instruction.parameter_number]
      else:
        operands = [values[i] for i in instruction.operand_ids]
        value = self._instruction(instruction, operands)
      values[instruction.id] = value
    return values[computation.root_id]

  def _instruction(self, instruction: Any, operands: list[Any]) -> Any:
    opcode = instruction.opcode
    if opcode in _UNARY:
      return _UNARY[opcode](*operands)
    if opcode in _BINARY:
      return _BINARY[opcode](*operands)
    method = getattr(self, '_' + opcode.replace('-', '_'), None)
    if method is None:
      target = f' {instruction.custom_call_target}' if opcode == 'custom-call' else ''
      raise UnsupportedError(f'the instruction {opcode}{target}')
    return method(instruction, *operands)

  def _region(self, computation_id: int) -> Callable[..., Any]:
    """A computation of scalars: jax's own function where it is a single operation."""
    name = self._single_operation(computation_id)
    if name in _BINARY:
      return _BINARY[name]
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
    return _literal(instruction.literal)

  def _iota(self, instruction: Any) -> Any:
    dtype = _DTYPES[instruction.shape.element_type]
    return lax.broadcasted_iota(dtype, _shape(instruction), instruction.dimensions[0])

  def _broadcast(self, instruction: Any, x: Any) -> Any:
    return lax.broadcast_in_dim(x, _shape(instruction), instruction.dimensions)

  def _reshape(self, instruction: Any, x: Any) -> Any:
    return lax.reshape(x, _shape(instruction))

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
      raise UnsupportedError('an array whose shape depends on its values')
    return x

  # -- Elements ----------------------------------------------------------------------------

  def _convert(self, instruction: Any, x: Any) -> Any:
    return lax.convert_element_type(x, _DTYPES[instruction.shape.element_type])

  def _bitcast_convert(self, instruction: Any, x: Any) -> Any:
    return lax.bitcast_convert_type(x, _DTYPES[instruction.shape.element_type])

  def _reduce_precision(self, instruction: Any, x: Any) -> Any:
    return lax.reduce_precision(x, instruction.exponent_bits, instruction.mantissa_bits)

  def _compare(self, instruction: Any, a: Any, b: Any) -> Any:
    return _COMPARE[instruction.comparison_direction](a, b)

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
    return lax.convert_element_type(result, _DTYPES[instruction.shape.element_type])

  def _convolution(self, instruction: Any, x: Any, filters: Any) -> Any:
    return _convolution(instruction, self._dot_general)(x, filters)

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
      raise UnsupportedError('the gradient of a pooling that is not a maximum')
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
      mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,  # XLA's own clamps.
    )

  def _scatter(self, instruction: Any, x: Any, indices: Any, updates: Any) -> Any:
    name = self._single_operation(instruction.called_computation_ids[0])
    if name in _SCATTERS:
      scatter = _SCATTERS[name]
    elif self._takes_second(instruction.called_computation_ids[0]):
      scatter = lax.scatter
    else:
      raise UnsupportedError('a scatter that is not a sum, product, minimum or maximum')
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
      mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,  # XLA's own leaves out what is beyond.
    )

  def _takes_second(self, computation_id: int) -> bool:
    computation = self._computations[computation_id]
    root = next(i for i in computation.instructions if i.id == computation.root_id)
    return root.opcode == 'parameter' and root.parameter_number == 1

  def _sort(self, instruction: Any, *operands: Any) -> Any:
    computation = self._computations[instruction.called_computation_ids[0]]
    root = next(i for i in computation.instructions if i.id == computation.root_id)
    numbers = {i.id: i.parameter_number for i in computation.instructions if i.opcode == 'parameter'}
    compared = [numbers.get(i) for i in root.operand_ids]
    if root.opcode != 'compare' or None in compared or compared[1] != compared[0] + 1:
      raise UnsupportedError('a sort by more than one key')
    key = _total_order(operands[compared[0] // 2])
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
    return lax.switch(lax.select(is_in_range, which, jnp.full_like(which, len(calls) - 1)), calls, 0)

  def _while(self, instruction: Any, initial: list[Any]) -> Any:
    body, condition = instruction.called_computation_ids
    loop = _Loop(self._computations[condition], self._computations[body], initial)
    # What the loop does not change is no state of it, so that a constant stays one.
    varying = [i for i in range(len(initial)) if i not in loop.fixed]

    def whole(state: Sequence[Any]) -> list[Any]:
      values = list(initial)
      for i, value in zip(varying, state, strict=True):
        values[i] = value
      return values

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
    return whole(done)


_SCATTERS = {
  'add': lax.scatter_add,
  'maximum': lax.scatter_max,
  'minimum': lax.scatter_min,
  'multiply': lax.scatter_mul,
}


def _total_order(x: Any) -> Any:
  """Integers in the order of `x`, in which -0 is below 0 and NaN has a place."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  bits = lax.bitcast_convert_type(x, np.dtype(f'int{8 * x.dtype.itemsize}'))
  flipped = lax.bitwise_xor(bits, np.array(jnp.iinfo(bits.dtype).max, bits.dtype))
  return jnp.where(bits < 0, flipped, bits)


def _indices_last(indices: Any, axis: int) -> Any:
  """Gather and scatter indices as jax wants them, with the index vectors in the last axis."""
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


class _Loop:
  """What is known of a `while` before it runs.

  fixed: positions of its state that no step changes.
  """

  def __init__(self, condition: Any, body: Any, initial: Sequence[Any]):
    self._condition = {i.id: i for i in condition.instructions}
    self._body = {i.id: i for i in body.instructions}
    self._root = self._condition[condition.root_id]
    self._initial = initial
    self._updates = list(self._body[body.root_id].operand_ids)
    self.fixed = frozenset(
      i for i, update in enumerate(self._updates) if _element(update, self._body) == i
    )

  def trips(self) -> int | None:
    """How many steps it takes, where it plainly counts up to a constant."""
    return self._trips(self._root)

  def _trips(self, instruction: Any) -> int | None:
    operands = [self._condition[i] for i in instruction.operand_ids]
    if instruction.opcode in ('and', 'copy'):
      trips = [self._trips(operand) for operand in operands]
      return None if None in trips else min(trips)
    if instruction.opcode != 'compare' or instruction.comparison_direction not in ('LT', 'GT'):
      return None
    if instruction.comparison_direction == 'GT':
      operands.reverse()
    counter = _element(operands[0].id, self._condition)
    limit = self._constant(operands[1].id, self._condition)
    if counter is None or limit is None:
      return None
    start, step = _scalar(self._initial[counter]), self._step(counter)
    if start is None or step is None:
      return None
    return max(-((start - limit) // step), 0)

  def _constant(self, source: int, instructions: dict[int, Any]) -> int | None:
    """An integer that is the same in each step, or None."""
    element = _element(source, instructions)
    if element is not None:
      return _scalar(self._initial[element]) if element in self.fixed else None
    if instructions[source].opcode == 'constant':
      return _scalar(_literal(instructions[source].literal))
    return None

  def _step(self, counter: int) -> int | None:
    """What a step adds to an element of the state, a positive integer, or None."""
    update = self._body[self._updates[counter]]
    if update.opcode != 'add':
      return None
    for mine, other in itertools.permutations(update.operand_ids):
      if _element(mine, self._body) == counter:
        step = self._constant(other, self._body)
        return step if step is not None and step > 0 else None
    return None


def _element(source: int, instructions: dict[int, Any]) -> int | None:
  """Which element of the loop's state an instruction is, copies aside; None if it is none."""
  instruction = instructions[source]
  while instruction.opcode == 'copy':
    instruction = instructions[instruction.operand_ids[0]]
  if instruction.opcode != 'get-tuple-element':
    return None
  if instructions[instruction.operand_ids[0]].opcode != 'parameter':
    return None
  return instruction.tuple_index


def _scalar(value: Any) -> int | None:
  """A constant integer, or None."""
  is_constant = isinstance(value, (np.ndarray, np.generic)) and np.ndim(value) == 0
  return int(value) if is_constant and np.issubdtype(value.dtype, np.integer) else None


def _convolution(instruction: Any, dot: Any) -> Callable[..., Any]:
  """The convolution of an instruction; of many clients, patches and a batched product."""
  dims = instruction.convolution_dimension_numbers
  of = hlo_windows.window(instruction.window)
  feature_groups = instruction.feature_group_count or 1
  batch_groups = instruction.batch_group_count or 1
  spatial = len(of.sizes)
  dtype = _DTYPES[instruction.shape.element_type]
  # Examples, places, channels; sizes, channels, outputs; examples, places, outputs.
  of_input = [dims.input_batch_dimension, *dims.input_spatial_dimensions, dims.input_feature_dimension]
  of_filters = [
    *dims.kernel_spatial_dimensions,
    dims.kernel_input_feature_dimension,
    dims.kernel_output_feature_dimension,
  ]
  of_output = [
    dims.output_batch_dimension,
    *dims.output_spatial_dimensions,
    dims.output_feature_dimension,
  ]

  def as_patches(x: Any, filters: Any) -> Any:
    """Of arrays with an axis of clients in front."""
    x = x.transpose(0, *(1 + axis for axis in of_input))
    filters = filters.transpose(0, *(1 + axis for axis in of_filters))
    clients, groups = x.shape[0], feature_groups * batch_groups
    if feature_groups > 1:  # In the channels of the input.
      x = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 1)
    else:  # In its examples; of one group, if there are no groups.
      x = x.reshape(clients, groups, -1, *x.shape[2:])
    filters = jnp.moveaxis(filters.reshape(*filters.shape[:-1], groups, -1), -2, 1)
    result = hlo_windows.convolution(x, filters, of, dot)
    result = jnp.moveaxis(result, 1, -2)
    result = result.reshape(*result.shape[:-2], -1)
    return result.transpose(0, *(1 + axis for axis in np.argsort(of_output))).astype(dtype)

  @custom_vmap
  def convolve(x: Any, filters: Any) -> Any:
    if any(of.reversal):
      return as_patches(x[None], filters[None])[0]
    result = lax.conv_general_dilated(
      x,
      filters,
      of.strides,
      of.padding,
      of.base_dilation,
      of.dilation,
      lax.ConvDimensionNumbers(
        (of_input[0], of_input[-1], *of_input[1:-1]),
        (of_filters[-1], of_filters[-2], *of_filters[:spatial]),
        (of_output[0], of_output[-1], *of_output[1:-1]),
      ),
      feature_groups,
      batch_groups,
      precision=lax.Precision.HIGHEST,
    )
    return result.astype(dtype)

  @convolve.def_vmap
  def convolve_clients(axis_size: int, in_batched: Any, x: Any, filters: Any) -> tuple[Any, bool]:
    x, filters = (
      value if is_batched else jnp.broadcast_to(value, (axis_size, *value.shape))
      for value, is_batched in zip((x, filters), in_batched, strict=True)
    )
    return as_patches(x, filters), True

  return convolve
