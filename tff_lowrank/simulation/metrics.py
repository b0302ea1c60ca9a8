"""Converts the metrics of a round to a flat row."""

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff


def number(name: str, value: Any) -> float | int:
  """`value` as a Python number, which may be NaN or infinite if the model has diverged.

  Raises TypeError, with the metric's name, unless it is a single number.
  """
  array = np.asarray(value.numpy() if tf.is_tensor(value) else value)
  if array.dtype == tf.bfloat16.as_numpy_dtype:
    array = array.astype(np.float32)
  if array.ndim or array.dtype.kind not in 'biuf':
    raise TypeError(f'The metric {name!r} must be a single number, found {value!r}.')
  return array.item()


def flatten(metrics: Mapping[str, Any], prefix: str = '') -> collections.OrderedDict[str, float]:
  """Nested metrics as `a/b/c -> number`; a vector becomes `a/b/0`, `a/b/1` and so on.

  Raises TypeError, with the metric's name, if one does not consist of numbers.
  """
  flat: collections.OrderedDict[str, Any] = collections.OrderedDict()
  for name, value in metrics.items():
    path = f'{prefix}{name}'
    if isinstance(value, Mapping):
      flat.update(flatten(value, f'{path}/'))
    elif isinstance(value, (list, tuple)):
      flat.update(flatten({str(i): v for i, v in enumerate(value)}, f'{path}/'))
    else:
      array = np.asarray(value)
      if array.ndim:
        flat.update(flatten({str(i): v for i, v in enumerate(array)}, f'{path}/'))
      else:
        flat[path] = number(path, value)
  return flat


def zeros(metrics_type: tff.Type) -> Any:
  """Metrics of a given type, all 0."""
  specs = tff.types.type_to_tf_tensor_specs(metrics_type)
  return tf.nest.map_structure(lambda spec: np.zeros(spec.shape, spec.dtype.as_numpy_dtype), specs)
