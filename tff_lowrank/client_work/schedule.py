"""Learning rates of clients that depend on the round, or on the client."""

import collections
from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple, TypeAlias

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

  def __post_init__(self) -> None:
    checks.check_type('optimizer', self.optimizer, tff.learning.optimizers.Optimizer)
    if not callable(self.factor):
      raise TypeError(f'`factor` must be a function of the round, found {self.factor!r}.')
    _check_has_rate(self.optimizer)


@dataclasses.dataclass(frozen=True)
class ClientRates:
  """An optimizer for clients each of which has a learning rate of its own.

  Where a learning process of this package takes a client optimizer it takes one of these too. TFF
  gives a client nothing that is its own but its batches, so each of them brings the rate of its
  step: clients' data have the elements `with_rate(batch, rate)`, which
  `simulation.batches.ClientBatches` makes. The optimizer's own rate does not count; the factor of a
  schedule does.

  optimizer: has a learning rate among its hyper-parameters; or is a `RoundSchedule` of one.

  Raises:
    TypeError: If `optimizer` is neither.
    ValueError: If it has no learning rate.
  """

  optimizer: tff.learning.optimizers.Optimizer | RoundSchedule

  def __post_init__(self) -> None:
    kinds = (tff.learning.optimizers.Optimizer, RoundSchedule)
    checks.check_type('optimizer', self.optimizer, kinds)
    if not isinstance(self.optimizer, RoundSchedule):
      _check_has_rate(self.optimizer)


def _check_has_rate(optimizer: tff.learning.optimizers.Optimizer) -> None:
  state = optimizer.initialize(tf.TensorSpec([], tf.float32))
  if tff.learning.optimizers.LEARNING_RATE_KEY not in optimizer.get_hparams(state):
    raise ValueError(f'{type(optimizer).__name__} has no learning rate that could change.')


ClientOptimizer: TypeAlias = tff.learning.optimizers.Optimizer | RoundSchedule | ClientRates


class Parts(NamedTuple):
  """What a client optimizer is made of.

  schedule: None if its rates do not depend on the round.
  by_client: whether the rate comes with each batch.
  """

  optimizer: tff.learning.optimizers.Optimizer
  schedule: RoundSchedule | None
  by_client: bool


def parts(client_optimizer: ClientOptimizer) -> Parts:
  """The parts of a client optimizer; raises TypeError if it is none."""
  optimizer, schedule = client_optimizer, None
  by_client = isinstance(optimizer, ClientRates)
  if by_client:
    optimizer = optimizer.optimizer
  if isinstance(optimizer, RoundSchedule):
    schedule, optimizer = optimizer, optimizer.optimizer
  checks.check_type('client_optimizer_fn', optimizer, tff.learning.optimizers.Optimizer)
  return Parts(optimizer, schedule, by_client)


BATCH, RATE = 'batch', 'learning_rate'


def with_rate(batch: Any, rate: Any) -> collections.OrderedDict:
  """An element of the data of a client that has a rate of its own, its type, or such data.

  Args:
    batch: As the model takes it.
    rate: float32 [], of the step on this batch.
  """
  return collections.OrderedDict([(BATCH, batch), (RATE, rate)])


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
