"""Arithmetic on nested structures of tensors."""

import math
from typing import Any

import numpy as np
import tensorflow as tf


def specs(value: Any) -> Any:
  """The structure of `tf.TensorSpec`s of `value`, a structure of tensors, arrays or specs."""

  def spec(leaf: Any) -> tf.TensorSpec:
    if isinstance(leaf, tf.TensorSpec):
      return leaf
    leaf = tf.convert_to_tensor(leaf)
    return tf.TensorSpec(leaf.shape, leaf.dtype)

  return tf.nest.map_structure(spec, value)


def to_numpy(x: Any) -> np.ndarray:
  """Converts an eager tensor or array to an array; `np.asarray` fails for a bfloat16 tensor []."""
  return np.asarray(x.numpy() if tf.is_tensor(x) else x)


def zeros(value_spec: Any) -> Any:
  return tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), value_spec)


def size(leaf: Any) -> Any:
  """The number of scalars: an int if the shape is static, else int64 []."""
  shape = tf.TensorShape(leaf.shape)
  return math.prod(shape) if shape.is_fully_defined() else tf.size(leaf, tf.int64)


def num_elements(value: Any) -> Any:
  """The number of scalars in all tensors or specs: an int if shapes are static, else int64 []."""
  return sum(size(leaf) for leaf in tf.nest.flatten(value))


def divisor(leaf: Any) -> tf.Tensor:
  """float64 []: the number of scalars, but at least 1, to divide a sum by."""
  return tf.cast(tf.maximum(tf.cast(size(leaf), tf.int64), 1), tf.float64)


def count(mask: list[tf.Tensor], value: Any) -> tf.Tensor:
  """int64 []: the number of scalars in tensors or specs for which `mask` is true.

  `mask` has a bool tensor for each leaf, in `tf.nest.flatten` order, shaped as the leaf or [].
  """
  leaves = tf.nest.flatten(value)
  counts = [
    tf.math.count_nonzero(tf.broadcast_to(chosen, leaf.shape), dtype=tf.int64)
    for chosen, leaf in zip(mask, leaves, strict=True)
  ]
  return tf.reduce_sum(tf.stack(counts)) if counts else tf.constant(0, tf.int64)


def all_finite(value: Any) -> tf.Tensor:
  """bool []: whether no scalar in `value` is NaN or infinite; integers and bools are finite."""
  leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(value)]
  finite = [tf.reduce_all(tf.math.is_finite(leaf)) for leaf in leaves if leaf.dtype.is_floating]
  return tf.reduce_all(tf.stack(finite)) if finite else tf.constant(True)


def where(mask: tf.Tensor, if_true: tf.Tensor, if_false: tf.Tensor) -> tf.Tensor:
  """`tf.where` without broadcasting: two tensors of the same shape, `mask` of that shape or [].

  On the CPU its kernel takes half the time of `tf.where`'s, a tenth for a mask of shape [].
  """
  return tf.raw_ops.Select(condition=mask, x=if_true, y=if_false)


def select(condition: tf.Tensor, if_true: Any, if_false: Any) -> Any:
  """`if_true` if `condition`, bool [], is true, else `if_false`; both have the same structure."""
  return tf.nest.map_structure(lambda a, b: where(condition, a, b), if_true, if_false)


def widened(x: tf.Tensor) -> tf.Tensor:
  """Converts float16 and bfloat16 to float32; float32 and float64 are not changed."""
  return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def scale(factor: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """`factor`, float [], times `x`, in the dtype of `x`; computed in the dtype of `widened`."""
  wide = widened(x)
  return tf.cast(tf.cast(factor, wide.dtype) * wide, x.dtype)


def dot(a: list[tf.Tensor], b: list[tf.Tensor]) -> tf.Tensor:
  """float64 []: the inner product of two lists of tensors, products and sums in float64.

  In float64 no product of two float32 numbers underflows or overflows.
  """
  return sum(
    tf.reduce_sum(tf.cast(x, tf.float64) * tf.cast(y, tf.float64))
    for x, y in zip(a, b, strict=True)
  )
