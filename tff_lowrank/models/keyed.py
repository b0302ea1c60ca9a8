"""Models with dropout that get a random key with each batch, for TFF's functional models.

In training, batches of such a model are OrderedDict(x=OrderedDict(examples=..., dropout_key=...),
y=...): `examples` is the usual `x`, and the key is an int64 []. Outside training no key is needed.
"""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.models import losses

KEY, EXAMPLES = 'dropout_key', 'examples'


class _Keyed(tf.keras.Model):
  """A model that takes the examples with or without a key."""

  def __init__(self, model: tf.keras.Model):
    super().__init__(name=model.name)
    self._model = model

  def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
    if not takes_key(inputs):
      return self._model(inputs, training=training)
    with layers.dropout_key(inputs[KEY]):
      return self._model(inputs[EXAMPLES], training=training)


def takes_key(x: Any) -> bool:
  """Whether `x` of a batch, or of its type, has a key."""
  return isinstance(x, Mapping) and set(x) == {KEY, EXAMPLES}


def is_keyed(model: Any) -> bool:
  """Whether the batches of `model`, a `tff.learning.models.FunctionalModel`, have a key."""
  return isinstance(model.input_spec, Mapping) and takes_key(model.input_spec['x'])


def batch_with(examples: Any, key: Any, y: Any) -> collections.OrderedDict:
  """Joins examples, keys and labels (arrays, types or data sets) to batches with keys."""
  x = collections.OrderedDict([(EXAMPLES, examples), (KEY, key)])
  return collections.OrderedDict(x=x, y=y)


def without_key(batch: Mapping[str, Any]) -> collections.OrderedDict:
  """A batch, or its type, without the key: `x` is the examples."""
  x = batch['x']
  return collections.OrderedDict(x=x[EXAMPLES] if takes_key(x) else x, y=batch['y'])


def for_functional(
  model: tf.keras.Model, input_spec: Mapping[str, Any]
) -> tuple[Callable[[], tf.keras.Model] | tf.keras.Model, Mapping[str, Any]]:
  """The arguments `keras_model` and `input_spec` of TFF's `functional_model_from_keras`.

  The model's own losses are included, see `losses.with_own_losses`.

  Args:
    model: A model with one output.
    input_spec: OrderedDict(x=..., y=...), the type of batches without a key.

  Returns:
    The model, or a function that builds it; `input_spec`, with a key if the model has a
    `layers.StatelessDropout`.
  """
  given = losses.with_own_losses(model)
  if not any(isinstance(part, layers.StatelessDropout) for part in model.submodules):
    return given, input_spec
  build = given if given is not model else losses.copier(model)
  spec = batch_with(input_spec['x'], tf.TensorSpec([], tf.int64), input_spec['y'])
  return lambda: _Keyed(build()), spec
