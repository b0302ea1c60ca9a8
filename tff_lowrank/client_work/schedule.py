"""Learning rates of clients that depend on the round."""

from collections.abc import Callable
import dataclasses

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks


@dataclasses.dataclass(frozen=True)
class RoundSchedule:
  """An optimizer for clients whose learning rate depends on the round.

  Where a learning process of this package takes a client optimizer it takes one of these too. In
  its round t, counted from 0, clients take their steps at the optimizer's own rate times
  `factor(t)`; a round in which nobody took part is none. (TFF's `schedule_learning_rate` counts a
  client's steps within a round.)

  optimizer: has a learning rate among its hyper-parameters.
  factor: TensorFlow function from int32 [] to float32 [].

  Raises:
    TypeError: If `optimizer` is no TFF optimizer, or `factor` cannot be called.
    ValueError: If the optimizer has no learning rate.
  """

  optimizer: tff.learning.optimizers.Optimizer
  factor: Callable[[tf.Tensor], tf.Tensor]

  def __post_init__(self):
    checks.check_type('optimizer', self.optimizer, tff.learning.optimizers.Optimizer)
    if not callable(self.factor):
      raise TypeError(f'`factor` must be a function of the round, found {self.factor!r}.')
    state = self.optimizer.initialize(tf.TensorSpec([], tf.float32))
    if tff.learning.optimizers.LEARNING_RATE_KEY not in self.optimizer.get_hparams(state):
      raise ValueError(f'{type(self.optimizer).__name__} has no learning rate to schedule.')


ClientOptimizer = tff.learning.optimizers.Optimizer | RoundSchedule


def exponential_decay(optimizer: tff.learning.optimizers.Optimizer, decay: float) -> RoundSchedule:
  """`optimizer` with its rate times `decay`, in (0, 1], after each round, as FedPara has it.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If `decay` is out of range, or the optimizer has no learning rate.
  """
  checks.check_in_range('decay', decay, 0, 1)
  if not decay:
    raise ValueError('`decay` must be above 0, found 0.')
  return RoundSchedule(
    optimizer, lambda t: tf.constant(decay, tf.float32) ** tf.cast(t, tf.float32)
  )
