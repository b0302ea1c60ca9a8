"""Copies Keras models for TFF, which only knows how variables were created, not later changes."""

from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf


def has_frozen(model: tf.keras.Model) -> bool:
  """Whether a layer with `trainable = False` has variables that would be trained otherwise."""
  return any(variable.trainable for variable in model.non_trainable_variables)


def _recorded(model: tf.keras.Model) -> tuple[tf.keras.Model, list[tuple[tf.Variable, bool]]]:
  """A copy, and its variables in order of creation, with whether each was created as trainable."""
  created = []

  def record(next_creator: Callable[..., Any], **options: Any) -> Any:
    variable = next_creator(**options)
    created.append((variable, bool(options.get('trainable', True))))
    return variable

  with tf.variable_creator_scope(record):
    copy = tf.keras.models.clone_model(model)
  return copy, created


def cloner(model: tf.keras.Model) -> Callable[[], tf.keras.Model]:
  """A function that makes copies of a model, with separate weights.

  `tff.learning.models.functional_model_from_keras` trains every variable that is created as
  trainable, so it would train the weights of frozen layers. In these copies they are created as not
  trainable.
  """
  first, created = _recorded(model)
  trained = {id(variable) for variable in first.trainable_variables}
  are_trained = [id(variable) in trained for variable, trains in created if trains]

  def clone() -> tf.keras.Model:
    left = iter(are_trained)

    def create(next_creator: Callable[..., Any], **options: Any) -> Any:
      if options.get('trainable', True):
        options['trainable'] = next(left)
      return next_creator(**options)

    with tf.variable_creator_scope(create):
      return tf.keras.models.clone_model(model)

  return clone


def creation_order(model: tf.keras.Model) -> tuple[list[int], list[int]]:
  """Keras's positions of trainable, and of other, variables in the order a copy creates them.

  Nested models are created before the layers around them.
  """
  copy, created = _recorded(model)

  def places(variables: Iterable[tf.Variable]) -> list[int]:
    place = {id(variable): i for i, variable in enumerate(variables)}
    return [place[id(variable)] for variable, _ in created if id(variable) in place]

  return places(copy.trainable_variables), places(copy.non_trainable_variables)
