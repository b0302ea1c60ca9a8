"""Names of a Keras model's weights that do not change when the model is built again."""

import re

import tensorflow as tf


def _snake_case(name: str) -> str:
  """Converts a class name to a layer name, as Keras does."""
  name = re.sub('(.)([A-Z][a-z0-9]+)', r'\1_\2', name)
  return re.sub('([a-z])([A-Z])', r'\1_\2', name).lower()


def trainable(model: tf.keras.Model) -> list[str]:
  """The names of the trainable weights, in order, such as `dense/kernel`; all different.

  Keras numbers layers without an explicit name across all models of a process. Here they are
  numbered per model, from `dense` and `dense_1` on, in the order of the weights.
  """
  generated = {_snake_case(type(part).__name__) for part in model.submodules}
  numbers: dict[str, dict[str, int]] = {}

  def renamed(part: str) -> str:
    base = re.sub(r'_\d+$', '', part)
    if base not in generated:
      return part
    known = numbers.setdefault(base, {})
    number = known.setdefault(part, len(known))
    return f'{base}_{number}' if number else base

  found: list[str] = []
  for weight in model.trainable_weights:
    name = '/'.join(map(renamed, weight.name.removesuffix(':0').split('/')))
    copies = sum(other == name or other.startswith(f'{name}#') for other in found)
    found.append(f'{name}#{copies + 1}' if copies else name)
  return found
