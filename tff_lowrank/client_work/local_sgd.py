"""Local training: one pass of an optimizer over the client's batches."""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank.client_work import optimizers

ModelFn: TypeAlias = (
  tff.learning.models.FunctionalModel | Callable[[], tff.learning.models.VariableModel]
)


@tff.tensorflow.computation
def _uniform_weight(num_examples):
  return tf.cast(num_examples > 0, tf.float32)


def check_model_fn(model_fn: ModelFn) -> None:
  """Raises TypeError unless it is a functional model or a callable.

  Raises ValueError if the model has no trainable weights.
  """
  is_functional = isinstance(model_fn, tff.learning.models.FunctionalModel)
  if not is_functional and not callable(model_fn):
    raise TypeError(
      '`model_fn` must be a `tff.learning.models.FunctionalModel` or a callable that returns a '
      f'`tff.learning.models.VariableModel`, found {type(model_fn).__name__}.'
    )
  if is_functional:
    trainable = model_fn.initial_weights[0]  # type: ignore[union-attr]  # TFF has no types.
  else:
    with tf.Graph().as_default():  # The variables are not kept.
      trainable = model_fn().trainable_variables
  if not trainable:
    raise ValueError('`model_fn` must have trainable weights, found none.')


def build_local_sgd(
  model_fn: ModelFn,
  client_optimizer_fn: tff.learning.optimizers.Optimizer,
  client_weighting: tff.learning.ClientWeighting = tff.learning.ClientWeighting.NUM_EXAMPLES,
  metrics_aggregator: Callable[..., tff.Computation] | None = None,
) -> tff.learning.templates.ClientWorkProcess:
  """Builds TFF's own local training, whose update is the initial model minus the trained one.

  A client without examples, or whose update is not finite, has weight 0 under either
  weighting (TFF gives the former weight 1 when `client_weighting` is uniform).

  Args:
    model_fn: A `tff.learning.models.FunctionalModel`, or a no-arg callable that returns a
      `tff.learning.models.VariableModel`.
    client_optimizer_fn: Runs the local steps.
    client_weighting: By number of examples, or uniform.
    metrics_aggregator: `tff.learning.metrics.sum_then_finalize` if None.

  Raises:
    TypeError: If an argument is of the wrong type.
    ValueError: If the model has no trainable weights.
  """
  check_model_fn(model_fn)
  checks.check_type('client_optimizer_fn', client_optimizer_fn, tff.learning.optimizers.Optimizer)
  checks.check_type('client_weighting', client_weighting, tff.learning.ClientWeighting)
  settings = dict(
    optimizer=optimizers.without_autograph(client_optimizer_fn),
    client_weighting=tff.learning.ClientWeighting.NUM_EXAMPLES,
    metrics_aggregator=metrics_aggregator,
  )
  if isinstance(model_fn, tff.learning.models.FunctionalModel):
    work = tff.learning.templates.build_functional_model_delta_client_work(
      model=model_fn, **settings
    )
  else:
    work = tff.learning.templates.build_model_delta_client_work(model_fn=model_fn, **settings)
  if client_weighting == tff.learning.ClientWeighting.NUM_EXAMPLES:
    return work

  @tff.federated_computation(*work.next.type_signature.parameter)
  def next_fn(state, weights, client_data):
    output = work.next(state, weights, client_data)
    weight = tff.federated_map(_uniform_weight, output.result.update_weight)
    result = tff.learning.templates.ClientResult(output.result.update, weight)
    return tff.templates.MeasuredProcessOutput(
      output.state, tff.federated_zip(result), output.measurements
    )

  return tff.learning.templates.ClientWorkProcess(
    work.initialize, next_fn, get_hparams_fn=work.get_hparams, set_hparams_fn=work.set_hparams
  )
