"""Local training with corrected gradients, against client drift.

Each method minimises the client's loss plus `<offset, w> + strength / 2 |w - w0|^2`, where w0 is
the received model:
                strength   offset
  FedProx       mu         0            Li et al., MLSys 2020, arXiv 1812.06127
  SCAFFOLD      0          c - c_k      Karimireddy et al., ICML 2020, arXiv 1910.06378
  FedDyn        alpha      -g_k         Acar et al., ICLR 2021, arXiv 2111.04263
where c is the server's control variate, and c_k and g_k are the client state. For factorised
layers, `w - w0` is the difference of the factors, not of the kernels that they compose.
"""

from collections.abc import Mapping
import functools
from typing import Any, NamedTuple

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import structures
from tff_lowrank.client_work import frozen
from tff_lowrank.client_work import schedule as schedule_lib


class Regularized(NamedTuple):
  """The result of a client's corrected training.

  memory: the client state, one tensor for each trainable weight; unchanged if the client is
    excluded.
  result: `tff.learning.templates.ClientResult`.
  metrics: unfinalized.
  """

  memory: Any
  result: Any
  metrics: Any


class ControlledUpdate(NamedTuple):
  """The client update of SCAFFOLD.

  model: the change of the model, one tensor for each trainable weight.
  control: the change of the client's control variate, likewise.
  """

  model: Any
  control: Any


def check_plain_sgd(client_optimizer: schedule_lib.ClientOptimizer) -> None:
  """Checks that it is SGD without momentum, with a rate above 0 or with rates by client.

  Raises:
    TypeError: If it is not a client optimizer.
    ValueError: If it is another optimizer, or its rate is 0.
  """
  optimizer, _, by_client = schedule_lib.parts(client_optimizer)
  state = optimizer.initialize(tf.TensorSpec((), tf.float32))
  name = tff.learning.optimizers.LEARNING_RATE_KEY
  if not isinstance(state, Mapping) or set(state) != {name}:
    raise ValueError(
      'SCAFFOLD needs SGD without momentum as `client_optimizer_fn`, because its correction '
      f'assumes steps of learning rate times gradient; found {type(optimizer).__name__}.'
    )
  if not by_client and not float(state[name]) > 0:
    raise ValueError(f"The clients' learning rate must be above 0, found {state[name]}.")


def _accept(
  result: tff.learning.templates.ClientResult, update: Any, old: Any, new: Any
) -> tuple[Any, tff.learning.templates.ClientResult]:
  """The client state, and the result with `update`; excludes the client if `new` is not finite."""
  finite = structures.all_finite(new)
  accepted = finite & (result.update_weight > 0)
  weight = tf.where(finite, result.update_weight, 0.0)
  return (
    structures.select(accepted, new, old),
    tff.learning.templates.ClientResult(update, weight),
  )


def proximal(training: frozen.LocalTraining, mu: float) -> frozen.LocalTraining:
  """FedProx: training on the loss plus `mu / 2 |w - w0|^2`."""
  train = functools.partial(training.train, correction=frozen.Correction(strength=mu))
  return training._replace(train=train)


def train_controlled(
  training: frozen.LocalTraining,
  own: Any,
  weights: tff.learning.models.ModelWeights,
  control: Any,
  dataset: tf.data.Dataset,
) -> Regularized:
  """SCAFFOLD: SGD with `c - c_k` added to the gradients, then the update of c_k by option II.

  After K steps from w0 to w, c_k becomes `c_k - c + (w0 - w) / (K learning_rate)`: the mean of
  the gradients of these steps.

  Args:
    training: With SGD without momentum and one learning rate for all steps of a round.
    own: c_k, one tensor for each trainable weight.
    weights: The received model.
    control: c, as `own`.
    dataset: The client's batches.

  Returns:
    `memory` is the new c_k, the update is a `ControlledUpdate`.
  """
  offset = tf.nest.map_structure(tf.subtract, control, own)
  trained = training.train(weights, None, dataset, frozen.Correction(offset=offset))
  update = tuple(tf.nest.flatten(trained.result.update))
  rate = tf.cast(trained.learning_rate, tf.float64)
  moved = rate * tf.cast(trained.num_steps, tf.float64)
  # At a rate of 0 the weights did not change, so the mean of the gradients is unknown.

  def renewed(c, o, u):
    wide = structures.widened(u)
    mean = tf.math.divide_no_nan(wide, tf.cast(moved, wide.dtype))
    return structures.where(moved > 0, tf.cast(mean, u.dtype) - o, c)

  new = tf.nest.map_structure(renewed, own, offset, update)
  kept, result = _accept(trained.result, update, own, new)
  change = tf.nest.map_structure(tf.subtract, kept, own)
  result = result._replace(update=ControlledUpdate(update, change))
  return Regularized(kept, result, trained.metrics)


def train_dynamic(
  training: frozen.LocalTraining,
  alpha: float,
  own: Any,
  weights: tff.learning.models.ModelWeights,
  dataset: tf.data.Dataset,
) -> Regularized:
  """FedDyn: training on the loss minus `<g_k, w>` plus `alpha / 2 |w - w0|^2`.

  Then g_k becomes `g_k - alpha (w - w0)`: the gradient of the loss at w, if training converged.

  Args:
    training: With any optimizer.
    alpha: At least 0.
    own: g_k, one tensor for each trainable weight.
    weights: The received model.
    dataset: The client's batches.

  Returns:
    `memory` is the new g_k.
  """
  offset = tf.nest.map_structure(tf.negative, own)
  trained = training.train(weights, None, dataset, frozen.Correction(alpha, offset))
  update = tuple(tf.nest.flatten(trained.result.update))
  new = tf.nest.map_structure(lambda g, u: g + alpha * u, own, update)
  kept, result = _accept(trained.result, trained.result.update, own, new)
  return Regularized(kept, result, trained.metrics)
