"""A layer's kernel as factors: the variables, composed on the way forward."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import threading

import numpy as np
import tensorflow as tf

from tff_lowrank.layers import factorization as factorization_lib

_recording = threading.local()


@dataclasses.dataclass(frozen=True, eq=False)
class Use:
  """One composition: `kernel` is the tensor that `factorization.compose(factors)` gave.

  owner: the same object for all compositions of the same kernel; rows of one are a kernel each.
  """

  owner: object
  factorization: factorization_lib.Factorization
  factors: dict[str, tf.Tensor]
  kernel: tf.Tensor


@contextlib.contextmanager
def recorded() -> Iterator[list[Use]]:
  """Lists every composition of a kernel by this thread within."""
  outer, _recording.found = getattr(_recording, 'found', None), []
  try:
    yield _recording.found
  finally:
    _recording.found = outer


@dataclasses.dataclass(frozen=True, eq=False)
class FactoredKernel:
  """The factors of one kernel of a layer.

  factorization: how they compose.
  shape: of the kernel, as in the plain Keras layer.
  factors: a variable for each name of `factorization.shapes(shape)`, in order.
  recompute: whether the backward pass composes the kernel anew, rather than keeping it and the
    terms that it is made of in memory.
  """

  factorization: factorization_lib.Factorization
  shape: tuple[int, ...]
  factors: dict[str, tf.Variable]
  recompute: bool = False

  def compose(self, dtype: tf.DType | None = None) -> tf.Tensor:
    """The kernel, of shape `shape`, composed in the factors' own dtype and cast to `dtype`."""
    return self._run(self, self._tensors(), self.shape, dtype, lambda kernel: kernel)

  def apply(self, operation: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], inputs: tf.Tensor):
    """`operation(inputs, kernel)` with the kernel in the dtype of `inputs`, which is floating."""
    return self._run(self, self._tensors(), self.shape, inputs.dtype, operation, inputs)

  def rows(self, indices: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Rows of a kernel [inputs, outputs]: integers `indices` [...] -> [..., outputs].

    Only these rows are composed, each as often as it is asked for.
    """
    flat = tf.reshape(indices, [-1])
    chosen = {
      name: tf.gather(factor, flat) if factorization_lib.has_input_rows(name) else factor
      for name, factor in self._tensors(gathered=True).items()
    }
    shape = tf.concat([tf.shape(indices), self.shape[-1:]], 0)
    rows = self._run(object(), chosen, shape, dtype, lambda kernel: kernel)
    return tf.ensure_shape(rows, indices.shape.concatenate(self.shape[-1:]))

  def _tensors(self, gathered: bool = False) -> dict[str, tf.Tensor]:
    # A variable that is gathered from gets sparse gradients; read as a tensor, dense ones.
    return {
      name: factor
      if gathered and factorization_lib.has_input_rows(name)
      else tf.convert_to_tensor(factor)
      for name, factor in self.factors.items()
    }

  def _run(
    self,
    owner: object,
    factors: dict[str, tf.Tensor],
    shape: tf.Tensor | Sequence[int],
    dtype: tf.DType | None,
    operation: Callable[..., tf.Tensor],
    *inputs: tf.Tensor,
  ) -> tf.Tensor:
    found = getattr(_recording, 'found', None)
    if found is not None and self.recompute:
      raise ValueError('Kernels can be recorded only in layers with `recompute=False`.')

    def run(*tensors: tf.Tensor) -> tf.Tensor:
      values = dict(zip(factors, tensors[len(inputs) :], strict=True))
      kernel = self.factorization.compose(values)
      if found is not None:
        found.append(Use(owner, self.factorization, values, kernel))
      kernel = tf.reshape(kernel, shape)
      return operation(*tensors[: len(inputs)], kernel if dtype is None else tf.cast(kernel, dtype))

    if self.recompute:
      return _recomputed(run, inputs, tuple(factors.values()))
    return run(*inputs, *factors.values())


def _recomputed(
  run: Callable[..., tf.Tensor], inputs: tuple[tf.Tensor, ...], factors: tuple[tf.Tensor, ...]
) -> tf.Tensor:
  """`run(*inputs, *factors)`, of which nothing but the arguments is kept for the backward pass.

  In place of tf.recompute_grad, whose recomputation newer XLA merges with the way forward, so that
  nothing is saved.
  """

  @tf.custom_gradient
  def forward(*tensors: tf.Tensor) -> tf.Tensor:
    def gradient(upstream: tf.Tensor) -> list[tf.Tensor]:
      with tf.GradientTape() as tape:
        later = [_after(upstream, x) for x in tensors[len(inputs) :]]
        again = [*tensors[: len(inputs)], *later]
        tape.watch(again)
        result = run(*again)
      return tape.gradient(result, again, upstream)

    return run(*tensors), gradient

  return forward(*inputs, *factors)


def _after(upstream: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """`x`, as a value that no optimiser can know before `upstream` is."""
  # A sum, so that it is 0 for an empty batch; NaN there is NaN in the gradients anyway.
  first = tf.reduce_sum(tf.reshape(upstream, [-1])[:1])
  nothing = tf.where(tf.math.is_nan(first), np.nan, 0.0)
  return x + tf.cast(nothing, x.dtype)
