"""TFF's optimizers as plain Python.

AutoGraph rewrites the code of an optimizer and runs it for each tensor, which takes longer than the
tracing itself. What has no branch or loop that depends on a tensor does not need it.
"""

from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

# Others may call functions of the user, which may need AutoGraph.
_PLAIN = {
  type(build(0.1))
  for build in (
    tff.learning.optimizers.build_adagrad,
    tff.learning.optimizers.build_adam,
    tff.learning.optimizers.build_rmsprop,
    tff.learning.optimizers.build_sgdm,
    tff.learning.optimizers.build_yogi,
  )
}


def is_plain(optimizer: tff.learning.optimizers.Optimizer) -> bool:
  """Whether an optimizer is known not to need AutoGraph."""
  return type(optimizer) in _PLAIN


class _Plain(tff.learning.optimizers.Optimizer):
  """See `without_autograph`."""

  def __init__(self, inner: tff.learning.optimizers.Optimizer):
    self._inner = inner

  @tf.autograph.experimental.do_not_convert
  def initialize(self, specs: Any) -> Any:
    return self._inner.initialize(specs)

  @tf.autograph.experimental.do_not_convert
  def next(self, state: Any, weights: Any, gradients: Any) -> Any:
    return self._inner.next(state, weights, gradients)

  def get_hparams(self, state: Any) -> Any:
    return self._inner.get_hparams(state)

  def set_hparams(self, state: Any, hparams: Any) -> Any:
    return self._inner.set_hparams(state, hparams)


def without_autograph(
  optimizer: tff.learning.optimizers.Optimizer,
) -> tff.learning.optimizers.Optimizer:
  """The same optimizer, to which AutoGraph is not applied if it does not need it."""
  return _Plain(optimizer) if is_plain(optimizer) else optimizer
