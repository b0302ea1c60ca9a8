"""Client learning rates that depend on the round or on the client."""

import collections
from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks


@dataclasses.dataclass(frozen=True)
class RoundSchedule:
  """A client optimizer whose learning rate depends on the round.

  Every learning process of this package accepts it as its client optimizer. In round t, counted
  from 0, the learning rate is the optimizer's own rate times `factor(t)`. Rounds without clients
  are not counted. (TFF's `schedule_learning_rate` counts a client's steps within a round.)

  optimizer: has a learning rate among its hyper-parameters.
  factor: TensorFlow function from int32 [] to float32 [].

  Raises:
    TypeError: If `optimizer` is not a TFF optimizer, or `factor` is not callable.
    ValueError: If the optimizer has no learning rate.
  """

  optimizer: tff.learning.optimizers.Optimizer
  factor: Callable[[tf.Tensor], tf.Tensor]

  def __post_init__(self):
    checks.check_type('optimizer', self.optimizer, tff.learning.optimizers.Optimizer)
    if not callable(self.factor):
      raise TypeError(f'`factor` must be a function of the round, found {self.factor!r}.')
    _check_has_rate(self.optimizer)


@dataclasses.dataclass(frozen=True)
class ClientRates:
  """A client optimizer with a separate learning rate for each client.

  Every learning process of this package accepts it as its client optimizer. In TFF a client's
  batches are its only own input, so each batch carries the learning rate of its step: elements
  of the client data are `with_rate(batch, rate)`, see `simulation.batches.ClientBatches`. The
  optimizer's own rate is not used; the factor of a schedule is.

  optimizer: has a learning rate among its hyper-parameters, or is a `RoundSchedule` of one.

  Raises:
    TypeError: If `optimizer` is neither.
    ValueError: If it has no learning rate.
  """

  optimizer: tff.learning.optimizers.Optimizer | RoundSchedule

  def __post_init__(self):
    kinds = (tff.learning.optimizers.Optimizer, RoundSchedule)
    checks.check_type('optimizer', self.optimizer, kinds)
    if not isinstance(self.optimizer, RoundSchedule):
      _check_has_rate(self.optimizer)


def _check_has_rate(optimizer: tff.learning.optimizers.Optimizer) -> None:
  state = optimizer.initialize(tf.TensorSpec([], tf.float32))
  if tff.learning.optimizers.LEARNING_RATE_KEY not in optimizer.get_hparams(state):
    raise ValueError(f'{type(optimizer).__name__} has no learning rate.')


ClientOptimizer = tff.learning.optimizers.Optimizer | RoundSchedule | ClientRates


class Parts(NamedTuple):
  """The parts of a client optimizer.

  schedule: None if the learning rate does not depend on the round.
  by_client: whether the rate comes with each batch.
  """

  optimizer: tff.learning.optimizers.Optimizer
  schedule: RoundSchedule | None
  by_client: bool


def parts(client_optimizer: ClientOptimizer) -> Parts:
  """The parts of a client optimizer; raises TypeError if it is something else."""
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
  """An element of the client data (or its type) for `ClientRates`: a batch and its rate.

  Args:
    batch: A batch for the model.
    rate: float32 [], the learning rate of the step on this batch.
  """
  return collections.OrderedDict([(BATCH, batch), (RATE, rate)])


def exponential_decay(optimizer: tff.learning.optimizers.Optimizer, decay: float) -> RoundSchedule:
  """`optimizer` with its rate multiplied by `decay`, in (0, 1], after each round, as in FedPara.

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
