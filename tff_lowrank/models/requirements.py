"""Checks that a Keras model can be trained with this package."""

from collections.abc import Sequence

import tensorflow as tf

_PROBABILITIES = ('softmax', 'sigmoid')


def check_trainable(model: tf.keras.Model) -> None:
  """Raises ValueError if a model cannot be trained with this package.

  It must be Sequential or functional with a known input shape, have trainable weights, and no
  unsupported layer.

  Unsupported are batch normalisation (its moving averages come from single clients' batches and
  are not trained, so they cannot be averaged meaningfully), and all Keras layers that draw random
  numbers (they use a variable, which TFF's functional models do not have).
  """
  if not isinstance(model, tf.keras.Sequential.__base__):  # The class of functional models.
    raise ValueError(
      f'Model {model.name!r} must be Sequential or functional, found a {type(model).__name__}; '
      'create it with tf.keras.Model(inputs, outputs).'
    )
  if not model.built:
    raise ValueError(
      f'Model {model.name!r} does not know the shape of its input; start it with '
      'tf.keras.Input(shape).'
    )
  parts = _parts(model)
  base = tf.keras.layers.BatchNormalization.__mro__[1]  # Includes the synchronised one.
  found = [layer.name for layer in parts if isinstance(layer, base)]
  if found:
    raise ValueError(
      f'Layer {found[0]!r} of model {model.name!r} is batch normalisation, which keeps statistics '
      'of single clients; use tf.keras.layers.GroupNormalization.'
    )
  found = [layer.name for layer in parts if _draws(layer)]
  if found:
    raise ValueError(
      f'Layer {found[0]!r} of model {model.name!r} draws random numbers that are not repeatable; '
      'for dropout, use tff_lowrank.layers.StatelessDropout.'
    )
  if not model.trainable_variables:
    raise ValueError(
      f'Model {model.name!r} has no trainable variables; add a layer with weights, and do not set '
      '`trainable` to False.'
    )


def check_returns_logits(model: tf.keras.Model) -> None:
  """Raises ValueError if a model with one output ends in a softmax or sigmoid."""
  layer = model
  while True:
    if isinstance(layer, tf.keras.Model):
      layer = layer.get_layer(layer.output_names[0])
    elif isinstance(layer, tf.keras.layers.Wrapper):
      layer = layer.layer
    else:
      break
  name = getattr(getattr(layer, 'activation', None), '__name__', type(layer).__name__.lower())
  if name.startswith(_PROBABILITIES):
    raise ValueError(
      f'Model {model.name!r} ends in a {name.removesuffix("_v2")}, in layer {layer.name!r}, but '
      'the loss takes logits: remove it.'
    )


def _parts(model: tf.keras.Model) -> Sequence[tf.Module]:
  """All layers in a model, including nested ones."""
  try:
    return model.submodules
  except ValueError as e:
    if 'dropout_mask_cache' not in str(e):  # TensorFlow cannot list these once there are masks.
      raise
    raise ValueError(
      f'A recurrent layer of model {model.name!r} has dropout, whose random numbers are not '
      'repeatable; remove it, or use tff_lowrank.layers.StatelessDropout between layers.'
    ) from e


def _draws(layer: tf.Module) -> bool:
  """Whether it is a Keras layer that draws random numbers in training."""
  if not isinstance(layer, tf.keras.layers.Dropout.__mro__[1]):
    return False
  names = ('rate', 'stddev', 'dropout', 'recurrent_dropout')
  shares = [getattr(layer, name) for name in names if hasattr(layer, name)]
  return any(shares) or not shares


def check_shapes(
  model: tf.keras.Model,
  example_shape: Sequence[int],
  label_shape: Sequence[int],
  max_label: int | None,
) -> None:
  """Raises ValueError unless a model accepts the examples and has a logit for each class.

  Args:
    model: A model with one input and one output.
    example_shape: The shape of one example, as passed to the model.
    label_shape: The shape of one example's label: one or several integers.
    max_label: The largest label; None if labels are numbers, one for each output.
  """
  taken, given = model.input_shape, (None, *example_shape)
  if isinstance(taken, (list, dict)) or not tf.TensorShape(taken).is_compatible_with(given):
    raise ValueError(
      f'Model {model.name!r} takes input of shape {taken}, but the examples have shape {given}.'
    )
  output = model.output_shape
  if max_label is None:
    expected = (None, *label_shape)
    if isinstance(output, (list, dict)) or not tf.TensorShape(output).is_compatible_with(expected):
      raise ValueError(
        f'Model {model.name!r} has output of shape {output}, but the labels have shape {expected}.'
      )
    return
  expected = (None, *label_shape)
  is_fit = not isinstance(output, (list, dict)) and len(output) == len(expected) + 1
  is_fit = is_fit and tf.TensorShape(output[:-1]).is_compatible_with(expected)
  if not is_fit or (output[-1] or 0) <= max_label:
    raise ValueError(
      f'Model {model.name!r} has output of shape {output}, but labels up to {max_label} need a '
      f'logit for each of {max_label + 1} classes, shape {(*expected, max_label + 1)}.'
    )
