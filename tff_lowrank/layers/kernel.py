"""A layer's kernel as factors: variables that are composed in the forward pass."""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import itertools
import threading
from typing import Any

import numpy as np
import tensorflow as tf

from tff_lowrank.layers import factorization as factorization_lib

_recording = threading.local()


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
  """One composition: `kernel` is the result of `factorization.compose(factors)`.

  owner: the same object for all compositions of the same kernel; each set of rows is a separate
    kernel.
  """

  owner: object
  factorization: factorization_lib.Factorization
  factors: dict[str, tf.Tensor]
  kernel: tf.Tensor


@contextlib.contextmanager
def recorded() -> Iterator[list[Use]]:
  """Inside, records every composition of a kernel in this thread."""
  outer, _recording.found = getattr(_recording, 'found', None), []
  try:
    yield _recording.found
  finally:
    _recording.found = outer


@dataclasses.dataclass(frozen=True, eq=False)
class FactoredKernel:
  """The factors of one kernel of a layer.

  factorization: how they are composed.
  shape: the shape of the kernel, as in the plain Keras layer.
  view: the shape in which it is factorised (`ranks.kernel_view`).
  factors: a variable for each name of `factorization.shapes(view)`, in order.
  recompute: whether the backward pass composes the kernel again, rather than keeping it and its
    terms in memory.
  """

  factorization: factorization_lib.Factorization
  shape: tuple[int, ...]
  view: tuple[int, ...]
  factors: dict[str, tf.Variable]
  recompute: bool = False

  def compose(self, dtype: tf.DType | None = None) -> tf.Tensor:
    """The kernel, of shape `shape`, composed in the factors' own dtype and cast to `dtype`."""
    return apply(lambda inputs, kernels: kernels['it'], (), {'it': self}, dtype)

  def rows(self, indices: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Rows of a kernel [inputs, outputs]: integers `indices` [...] -> [..., outputs].

    Only these rows are composed; repeated rows are composed repeatedly.
    """
    flat = tf.reshape(indices, [-1])
    # Gathering from a variable gives sparse gradients; from a tensor, dense ones.
    chosen = {
      name: tf.gather(factor, flat)
      if factorization_lib.has_input_rows(name)
      else tf.convert_to_tensor(factor)
      for name, factor in self.factors.items()
    }
    shape = tf.concat([tf.shape(indices), self.shape[-1:]], 0)

    def run(inputs: tuple, factors: dict[str, tf.Tensor]) -> tf.Tensor:
      del inputs
      return self.composed(factors, shape, dtype, owner=object())

    rows = _run(self.recompute, run, (), chosen)
    return tf.ensure_shape(rows, indices.shape.concatenate(self.shape[-1:]))

  def composed(
    self,
    factors: dict[str, tf.Tensor],
    shape: tf.Tensor | Sequence[int],
    dtype: tf.DType | None,
    owner: object,
  ) -> tf.Tensor:
    """The kernel composed from these factors, in this shape and dtype; see also `recorded`."""
    kernel = self.factorization.compose(factors)
    found = getattr(_recording, 'found', None)
    if found is not None:
      if self.recompute:
        raise ValueError('Kernels can be recorded only in layers with `recompute=False`.')
      found.append(Use(owner, self.factorization, factors, kernel))
    kernel = tf.reshape(kernel, shape)
    return kernel if dtype is None else tf.cast(kernel, dtype)


def apply(
  operation: Callable[[Any, dict[str, tf.Tensor]], Any],
  inputs: Any,
  kernels: Mapping[str, FactoredKernel],
  dtype: tf.DType | None,
) -> Any:
  """`operation(inputs, kernels)` with the composed kernels by name, each cast to `dtype`.

  inputs: a structure of tensors, which may be sparse or ragged, and so may the result.
  """
  factors = {
    name: {factor: tf.convert_to_tensor(value) for factor, value in kernel.factors.items()}
    for name, kernel in kernels.items()
  }

  def run(inputs: Any, factors: dict[str, dict[str, tf.Tensor]]) -> Any:
    composed = {
      name: kernel.composed(factors[name], kernel.shape, dtype, owner=kernel)
      for name, kernel in kernels.items()
    }
    return operation(inputs, composed)

  return _run(any(kernel.recompute for kernel in kernels.values()), run, inputs, factors)


def _run(recompute: bool, run: Callable[[Any, Any], Any], inputs: Any, factors: Any) -> Any:
  """`run(inputs, factors)`; with `recompute`, nothing else is kept for the backward pass.

  Not tf.recompute_grad, since newer XLA merges its recomputation with the forward pass, so that no
  memory is saved.
  """
  if not recompute:
    return run(inputs, factors)
  arguments = _flat((inputs, factors))
  num_inputs = len(_flat(inputs))
  # Of the result. AutoGraph knows no annotations of what inner functions share.
  structure = []  # type: list[Any]
  is_floating = []  # type: list[bool]

  def of_flat(tensors: Sequence[tf.Tensor]) -> Any:
    return run(*_packed((inputs, factors), tensors))

  @tf.custom_gradient
  def forward(*tensors: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., Any]]:
    def gradient(*upstream: tf.Tensor) -> list[tf.Tensor | None]:
      arrived = list(itertools.compress(upstream, is_floating))
      with tf.GradientTape() as tape:
        later = [_after(arrived[0], x) for x in tensors[num_inputs:]]
        again = [*tensors[:num_inputs], *later]
        # Indices in sparse tensors have no gradient.
        sources = [x for x in again if x.dtype.is_floating]
        tape.watch(sources)
        outputs = [x for x in _flat(of_flat(again)) if x.dtype.is_floating]
      gradients = iter(tape.gradient(outputs, sources, arrived))
      return [next(gradients) if x.dtype.is_floating else None for x in again]

    structure[:] = [of_flat(tensors)]
    is_floating[:] = [x.dtype.is_floating for x in _flat(structure)]
    return _flat(structure), gradient

  return _packed(structure, forward(*arguments))[0]


def _flat(structure: Any) -> list[tf.Tensor]:
  return tf.nest.flatten(structure, expand_composites=True)


def _packed(structure: Any, tensors: Sequence[tf.Tensor]) -> Any:
  return tf.nest.pack_sequence_as(structure, tensors, expand_composites=True)


def _after(upstream: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """`x`, but dependent on `upstream`, so that a compiler cannot compute it earlier."""
  # A sum, which is 0 for an empty batch; if it is NaN, the gradients are NaN anyway.
  first = tf.reduce_sum(tf.reshape(upstream, [-1])[:1])
  nothing = tf.where(tf.math.is_nan(first), np.nan, 0.0)
  return x + tf.cast(nothing, x.dtype)
