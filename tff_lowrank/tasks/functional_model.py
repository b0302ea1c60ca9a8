"""Converts Keras models to TFF's functional models."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.models import copies
from tff_lowrank.models import keyed


def from_keras(
  model: tf.keras.Model,
  loss_fn: Callable[..., tf.Tensor],
  input_spec: Any,
  metrics_constructor: Any = None,
) -> tff.learning.models.FunctionalModel:
  """As `tff.learning.models.functional_model_from_keras`, for a model with one output.

  In addition, the model's own losses are minimised, frozen layers are not trained, and the weights
  are in the order of `model.trainable_variables` and `model.non_trainable_variables`.
  """
  given, input_spec = keyed.for_functional(model, input_spec)
  functional = tff.learning.models.functional_model_from_keras(
    given, loss_fn, input_spec, metrics_constructor
  )
  orders = copies.creation_order(model)
  if all(order == sorted(order) for order in orders):
    return functional

  def as_created(weights: Sequence[Any]) -> tuple[list[Any], ...]:
    return tuple(
      [kind[place] for place in order] for kind, order in zip(weights, orders, strict=True)
    )

  @tf.function
  def predict_on_batch(weights: Any, x: Any, training: bool = True) -> Any:
    return functional.predict_on_batch(as_created(weights), x, training)

  initial_weights = tuple(
    tuple(weight for _, weight in sorted(zip(order, kind, strict=True), key=lambda pair: pair[0]))
    for kind, order in zip(functional.initial_weights, orders, strict=True)
  )
  return tff.learning.models.FunctionalModel(
    initial_weights=initial_weights,
    predict_on_batch_fn=predict_on_batch,
    loss_fn=functional.loss,
    metrics_fns=(
      functional.initialize_metrics_state,
      functional.update_metrics_state,
      functional.finalize_metrics,
    ),
    input_spec=input_spec,
  )
