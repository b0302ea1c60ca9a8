"""FedPara's Jacobian correction: an optional regulariser, not used unless it is called.

Hyeon-Woo, Ye-Bin, Oh: FedPara, ICLR 2022, arXiv 2108.06098, supplement B. Let J_W = dL/dW for a
composed kernel W, and W' the kernel composed from the factors after one virtual SGD step of size
eta on all factors at once. The loss is
  R = L + (lambda / 2) |W' - (W - eta J_W)|^2        summed over kernels
In the paper its effect on accuracy (Table 4) is within the noise. The paper does not say whether
gradients flow through J_W; here J_W is a constant, but its coefficients are not.
"""

from collections.abc import Callable, Mapping

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import kernel as kernel_lib


def virtual_step(
  factorization: factorization_lib.Factorization,
  factors: Mapping[str, tf.Tensor],
  kernel_gradient: tf.Tensor,
  step_size: float,
) -> tf.Tensor:
  """W': the kernel composed from the factors after one SGD step of size `step_size`.

  factors: by the names of `factorization.shapes`; frozen ones do not change.
  kernel_gradient: J_W, which gives the factors' gradients by the chain rule; same shape and dtype
    as `factorization.compose(factors)`.
  """
  values = {name: tf.convert_to_tensor(factor) for name, factor in factors.items()}
  movable = {name: x for name, x in values.items() if name not in factorization.frozen}
  with tf.GradientTape() as tape:
    tape.watch(movable)
    kernel = factorization.compose(values)
  gradients = tape.gradient(kernel, movable, kernel_gradient)
  return factorization.compose(
    values | {name: x - step_size * gradients[name] for name, x in movable.items()}
  )


def penalty(
  factorization: factorization_lib.Factorization,
  factors: Mapping[str, tf.Tensor],
  kernel_gradient: tf.Tensor,
  step_size: float,
) -> tf.Tensor:
  """|W' - (W - eta J_W)|^2 / 2, a scalar, differentiable in the factors. Arguments as above."""
  kernel_gradient = tf.stop_gradient(kernel_gradient)
  moved = virtual_step(factorization, factors, kernel_gradient, step_size)
  wanted = factorization.compose(factors) - step_size * kernel_gradient
  return tf.nn.l2_loss(moved - wanted)


def corrected_loss(
  loss_fn: Callable[[], tf.Tensor], *, step_size: float, strength: float = 1.0
) -> tf.Tensor:
  """The loss R, for a Keras model that is called directly.

  Args:
    loss_fn: calls the model and returns L, a scalar. The model's factorised layers must have
      `recompute=False`; for embeddings, only the rows that were looked up are included.
    step_size: eta, the client's learning rate; at least 0.
    strength: lambda; 0 returns L itself. The paper's is 1, in an ablation 10.

  Raises:
    ValueError: if an argument is out of range, or no kernel takes part in the loss.
  """
  checks.check_in_range('step_size', step_size, 0, float('inf'))
  checks.check_in_range('strength', strength, 0, float('inf'))
  if not strength:
    return loss_fn()
  with kernel_lib.recorded() as uses, tf.GradientTape() as tape:
    loss = loss_fn()
  gradients = tape.gradient(loss, [use.kernel for use in uses])
  # Owner -> one of the kernel's uses, and the gradients of all.
  kernels = {}  # type: dict[object, tuple[kernel_lib.Use, list[tf.Tensor]]]
  for use, gradient in zip(uses, gradients, strict=True):
    if gradient is not None:
      kernels.setdefault(use.owner, (use, []))[1].append(gradient)
  if not kernels:
    raise ValueError('The loss does not depend on any factorised kernel.')
  return loss + strength * tf.add_n(
    [
      penalty(use.factorization, use.factors, tf.add_n(parts), step_size)
      for use, parts in kernels.values()
    ]
  )
