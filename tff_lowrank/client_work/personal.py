"""Personal weights, which clients do not send: which ones they are, and splitting them off."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import checks
from tff_lowrank.client_work import local_sgd


def last_layer_mask(model: tf.keras.Model) -> list[bool]:
  """For each trainable variable of the model, in order, whether it belongs to the last layer.

  These are the personal weights of FedPer: Arivazhagan et al., 2019, arXiv 1912.00818. The last
  layer is the last one of `model.layers` that has trainable variables.

  Raises ValueError if the model has none.
  """
  with_weights = [layer for layer in model.layers if layer.trainable_variables]
  if not with_weights:
    raise ValueError(f'Model {model.name!r} has no trainable variables.')
  own = {id(v) for v in with_weights[-1].trainable_variables}
  return [id(v) in own for v in model.trainable_variables]


@dataclasses.dataclass(frozen=True)
class Split:
  """The trainable weights of a model, split into shared and personal ones.

  personal: for each trainable weight, in order, whether it is personal.
  """

  personal: tuple[bool, ...]

  def shared_part(self, weights: Any) -> tuple[Any, ...]:
    """The shared ones of `weights`, a structure with one leaf per weight of the model."""
    return self._part(weights, False)

  def personal_part(self, weights: Any) -> tuple[Any, ...]:
    """The personal ones of `weights`."""
    return self._part(weights, True)

  def merge(self, shared: Any, personal: Any, like: Any) -> Any:
    """All weights, in the structure of `like`, from the results of the two methods above.

    Raises ValueError if the number of shared or of personal weights is wrong.
    """
    shared, personal = tf.nest.flatten(shared), tf.nest.flatten(personal)
    expected = (self.personal.count(False), self.personal.count(True))
    if (len(shared), len(personal)) != expected:
      raise ValueError(
        f'Expected {expected[0]} shared and {expected[1]} personal weights, found {len(shared)} '
        f'and {len(personal)}.'
      )
    parts = {False: iter(shared), True: iter(personal)}
    return tf.nest.pack_sequence_as(like, [next(parts[kind]) for kind in self.personal])

  def _part(self, weights: Any, kind: bool) -> tuple[Any, ...]:
    leaves = zip(tf.nest.flatten(weights), self.personal, strict=True)
    return tuple(leaf for leaf, is_personal in leaves if is_personal == kind)


def build_split(personal: Sequence[bool], num_weights: int) -> Split:
  """Creates the split for a model with `num_weights` trainable weights.

  Raises:
    TypeError: If `personal` is not a sequence of bools.
    ValueError: If it does not have one bool per weight.
  """
  checks.check_type('personal', personal, (list, tuple))
  for is_personal in personal:
    checks.check_type('personal', is_personal, (bool, np.bool_))
  if len(personal) != num_weights:
    raise ValueError(
      f'`personal` must have one bool for each of the {num_weights} trainable weights, found '
      f'{len(personal)}.'
    )
  return Split(tuple(bool(is_personal) for is_personal in personal))


def initial_values(model_fn: local_sgd.ModelFn) -> tff.learning.models.ModelWeights:
  """The initial weights as arrays, evaluated once, in the structure of the model's weights.

  This way a model with random initialisation starts with the same values at all clients.
  """
  local_sgd.check_model_fn(model_fn)
  if isinstance(model_fn, tff.learning.models.FunctionalModel):
    kinds = (tuple(np.asarray(w) for w in kind) for kind in model_fn.initial_weights)
    return tff.learning.models.ModelWeights(*kinds)
  weights = tff.learning.models.ModelWeights.from_model(model_fn())
  return tf.nest.map_structure(lambda v: v.numpy(), weights)
