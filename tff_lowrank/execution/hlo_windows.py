"""Convolutions and pooling of HLO in jax, with batching rules that are fast for many clients.

The batching rules of jax turn a convolution with different filters per client into a grouped
convolution, which GPUs run slowly. Here the patches under the filters are copied out instead, and
multiplied in one batched matrix product. The gradient of max pooling becomes comparisons and
additions; a scatter's sums would depend on the order in which a GPU's threads run.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
from jax import lax
from jax.custom_batching import custom_vmap
import jax.numpy as jnp
import numpy as np

from tff_lowrank.execution import hlo_types


@dataclasses.dataclass(frozen=True)
class Window:
  """A window over the spatial axes. Each field has one entry per axis.

  base_dilation: the distance between the input's elements; zeros are inserted between them.
  dilation: the distance between the elements of one window.
  reversal: whether the filter is reversed.
  """

  sizes: tuple[int, ...]
  strides: tuple[int, ...]
  padding: tuple[tuple[int, int], ...]
  base_dilation: tuple[int, ...]
  dilation: tuple[int, ...]
  reversal: tuple[bool, ...]


def window(proto: Any) -> Window:
  """The window of an HLO instruction."""
  dims = proto.dimensions
  return Window(
    tuple(d.size for d in dims),
    tuple(d.stride for d in dims),
    tuple((d.padding_low, d.padding_high) for d in dims),
    tuple(d.base_dilation for d in dims),
    tuple(d.window_dilation for d in dims),
    tuple(d.window_reversal for d in dims),
  )


def _pad(x: jax.Array, value: Any, of: Window, first: int) -> jax.Array:
  """Pads and dilates the window's axes of `x`, which start at `first`."""
  config = [(0, 0, 0)] * x.ndim
  for axis, ((low, high), dilation) in enumerate(zip(of.padding, of.base_dilation, strict=True)):
    config[first + axis] = (low, high, dilation - 1)
  return lax.pad(x, value, config)


def _slice(
  x: jax.Array, first: int, starts: Any, strides: Sequence[int], counts: Sequence[int]
) -> jax.Array:
  """A strided slice of the axes of `x` that start at `first`; `counts` are its sizes."""
  begin, end, step = [0] * x.ndim, list(x.shape), [1] * x.ndim
  for axis, (start, stride, count) in enumerate(zip(starts, strides, counts, strict=True)):
    begin[first + axis], step[first + axis] = start, stride
    end[first + axis] = start + (count - 1) * stride + 1
  return lax.slice(x, begin, end, step)


def _output_sizes(x: jax.Array, of: Window, first: int) -> tuple[int, ...]:
  """The number of windows in each of the window's axes of the padded `x`, from `first` on."""
  return tuple(
    (x.shape[first + axis] - (size - 1) * dilation - 1) // stride + 1
    for axis, (size, dilation, stride) in enumerate(
      zip(of.sizes, of.dilation, of.strides, strict=True)
    )
  )


def convolution(x: jax.Array, filters: jax.Array, of: Window, dot: Any) -> jax.Array:
  """A convolution for each client and group with its own filters, as matrix products of patches.

  Args:
    x: [clients, groups, examples, *spatial, channels].
    filters: [clients, groups, *sizes, channels, outputs].
    of: The window.
    dot: `lax.dot_general` with a precision.

  Returns:
    [clients, groups, examples, *outputs' spatial, outputs].
  """
  filters = lax.rev(filters, [2 + axis for axis, flip in enumerate(of.reversal) if flip])
  padded = jax.eval_shape(lambda x: _pad(x, np.zeros([], x.dtype), of, 3), x)
  outputs = _output_sizes(padded, of, 3)
  clients, groups, examples = x.shape[:3]
  channels = x.shape[-1]
  count = filters.shape[-1]
  by_row = (((3,), (2,)), ((0, 1), (0, 1)))
  positions = list(itertools.product(*map(range, of.sizes)))

  def at(x: jax.Array, position: Sequence[int]) -> jax.Array:
    """The inputs, for all windows, of the filter's element at a position."""
    return _slice(x, 3, np.multiply(position, of.dilation), of.strides, outputs)

  if len(positions) > math.prod(outputs):
    # Fewer windows than elements in a window, as in the gradient of a filter: one row per window.
    x = _pad(x, np.zeros([], x.dtype), of, 3)
    rows = [
      _slice(x, 3, np.multiply(place, of.strides), of.dilation, of.sizes)
      for place in itertools.product(*map(range, outputs))
    ]
    flat = jnp.stack(rows, 2).reshape(clients, groups, len(rows) * examples, -1)
    product = dot(flat, filters.reshape(clients, groups, -1, count), by_row)
    product = product.reshape(clients, groups, *outputs, examples, count)
    return jnp.moveaxis(product, -2, 2)
  if count < channels and len(positions) > 1:
    # Fewer outputs than channels, as in the gradient of an input: sum products per position.
    by_channel = jnp.moveaxis(filters, -2, 2).reshape(clients, groups, channels, -1)
    products = dot(x.reshape(clients, groups, -1, channels), by_channel, by_row)
    products = products.reshape(*x.shape[:-1], len(positions), count)
    terms = [
      at(_pad(products[..., k, :], np.zeros([], products.dtype), of, 3), position)
      for k, position in enumerate(positions)
    ]
    return functools.reduce(lax.add, terms)
  x = _pad(x, np.zeros([], x.dtype), of, 3)
  patches = lax.concatenate([at(x, position) for position in positions], x.ndim - 1)
  flat = patches.reshape(clients, groups, -1, len(positions) * channels)
  product = dot(flat, filters.reshape(clients, groups, -1, count), by_row)
  return product.reshape(clients, groups, examples, *outputs, count)


def gradient_of_max(x: jax.Array, source: jax.Array, of: Window, lowest: Any) -> jax.Array:
  """The gradient of max pooling: adds each element of `source` at its window's maximum in `x`.

  Args:
    x: The input of the pooling, over windows in all axes.
    source: The gradient of its output. Of equal maxima, the first gets it.
    of: The window, without dilation.
    lowest: The value of padding, a scalar of `x`'s dtype.

  Returns:
    An array of `x`'s shape and dtype.
  """
  padded = _pad(x, lowest, of, 0)
  outputs = source.shape
  positions = list(itertools.product(*map(range, of.sizes)))
  views = [_slice(padded, 0, position, of.strides, outputs) for position in positions]
  largest = views[0]
  for view in views[1:]:
    largest = lax.max(largest, view)
  is_free = jnp.ones(outputs, bool)
  result = jnp.zeros(padded.shape, x.dtype)
  zero = np.zeros([], x.dtype)
  for position, view in zip(positions, views, strict=True):
    is_chosen = is_free & (view == largest)
    is_free = is_free & ~is_chosen
    here = lax.select(is_chosen, source, jnp.zeros_like(source))
    config = [
      (start, size - start - (count - 1) * stride - 1, stride - 1)
      for start, size, count, stride in zip(
        position, padded.shape, outputs, of.strides, strict=True
      )
    ]
    result = result + lax.pad(here, zero, config)
  starts = [low for low, _ in of.padding]
  return lax.slice(result, starts, [s + n for s, n in zip(starts, x.shape, strict=True)])


def of_instruction(instruction: Any, dot: Any) -> Callable[..., Any]:
  """The convolution of an HLO instruction, with `convolution` as its batching rule."""
  dims = instruction.convolution_dimension_numbers
  of = window(instruction.window)
  feature_groups = instruction.feature_group_count or 1
  batch_groups = instruction.batch_group_count or 1
  dtype = hlo_types.DTYPES[instruction.shape.element_type]
  # Examples, places, channels; sizes, channels, outputs; examples, places, outputs.
  of_input = [
    dims.input_batch_dimension,
    *dims.input_spatial_dimensions,
    dims.input_feature_dimension,
  ]
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
    """The convolution of arrays whose first axis is clients."""
    x = x.transpose(0, *(1 + axis for axis in of_input))
    filters = filters.transpose(0, *(1 + axis for axis in of_filters))
    clients, groups = x.shape[0], feature_groups * batch_groups
    if feature_groups > 1:  # Groups are in the channels of the input.
      x = jnp.moveaxis(x.reshape(*x.shape[:-1], groups, -1), -2, 1)
    else:  # Groups are in the examples; without groups there is one.
      x = x.reshape(clients, groups, -1, *x.shape[2:])
    filters = jnp.moveaxis(filters.reshape(*filters.shape[:-1], groups, -1), -2, 1)
    result = convolution(x, filters, of, dot)
    result = jnp.moveaxis(result, 1, -2)
    result = result.reshape(*result.shape[:-2], -1)
    return result.transpose(0, *(1 + axis for axis in np.argsort(of_output))).astype(dtype)

  @custom_vmap
  def convolve(x: Any, filters: Any) -> Any:
    return as_patches(x[None], filters[None])[0]

  @convolve.def_vmap
  def convolve_clients(axis_size: int, in_batched: Any, x: Any, filters: Any) -> tuple[Any, bool]:
    x, filters = (
      value if is_batched else jnp.broadcast_to(value, (axis_size, *value.shape))
      for value, is_batched in zip((x, filters), in_batched, strict=True)
    )
    return as_patches(x, filters), True

  return convolve
