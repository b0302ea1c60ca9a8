"""Converts Python values to tensors, lists and sequences, and back to what TFF users expect."""

from collections.abc import Mapping
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import client_datasets
from tff_lowrank.execution import device_memory
from tff_lowrank.execution import native
from tff_lowrank.execution import plan
from tff_lowrank.execution import sequences


def num_clients(value: Any, type_spec: tff.Type) -> int | None:
  """The number of clients in `value`, an argument of `type_spec`; None without clients' values.

  Raises:
    TypeError: If clients' values are not a list.
    ValueError: If two parts of the value are for different numbers of clients.
  """
  if isinstance(type_spec, tff.FederatedType):
    if type_spec.all_equal or type_spec.placement is not tff.CLIENTS:
      return None
    if not isinstance(value, (list, tuple)):
      raise TypeError(
        f'Expected a list with one value per client for {type_spec}, found {type(value).__name__}.'
      )
    return len(value)
  if not isinstance(type_spec, tff.StructType):
    return None
  found = None
  for item, item_type in zip(_items(value, type_spec), type_spec, strict=True):
    count = num_clients(item, item_type)
    if None not in (found, count) and found != count:
      raise ValueError(f'Conflicting cardinalities for CLIENTS: {found} vs {count}.')
    found = count if found is None else found
  return found


def _items(value: Any, type_spec: tff.StructType) -> list[Any]:
  """The items of a struct value, in the order of its type."""
  if not isinstance(value, (tff.structure.Struct, Mapping, tuple, list)) and not hasattr(
    value, '__attrs_attrs__'
  ):
    raise TypeError(f'Expected a value of type {type_spec}, found {type(value).__name__}.')
  names = tff.structure.name_list_with_nones(type_spec)
  struct = tff.structure.from_container(value, recursive=False)
  if len(struct) != len(names):
    raise TypeError(f'Expected {len(names)} items for {type_spec}, found {len(struct)}.')
  given = tff.structure.name_list_with_nones(struct)
  if any(name is not None for name in given):
    if isinstance(value, Mapping) and all(name in value for name in names):
      return [value[name] for name in names]
    for expected, found in zip(names, given, strict=True):
      if found is not None and found != expected:
        raise TypeError(f'Expected an item named {expected!r} for {type_spec}, found {found!r}.')
  return list(struct)


class Converter:
  """Converts arguments and results, and recognises its own results when they are arguments.

  Large results on a GPU stay there while there is room. Arrays in results share memory with
  tensors. When such an array is an argument, as the state of one round is in the next, its tensor
  is used again. Elements read from a data set are kept as long as the user keeps the data set.
  """

  def __init__(self):
    self._tensors: dict[int, tuple[weakref.ref, tf.Tensor]] = {}
    self._datasets: dict[int, tuple[weakref.ref, sequences.Memo, tff.Type]] = {}
    self._on_devices = device_memory.Results()

  @property
  def of_clients(self) -> 'Converter':
    """The converter of clients' values."""
    return self

  def convert_in(self, value: Any, type_spec: tff.Type) -> Any:
    """`value` as tensors, lists and sequences. Raises TypeError if it is not of `type_spec`."""
    if isinstance(type_spec, tff.TensorType):
      return self._tensor(value, type_spec)
    if isinstance(type_spec, tff.StructType):
      items = _items(value, type_spec)
      return [self.convert_in(v, t) for v, t in zip(items, type_spec, strict=True)]
    if isinstance(type_spec, tff.FederatedType):
      if plan.is_at_clients(type_spec):
        return plan.AtClients(self.of_clients.convert_in(v, type_spec.member) for v in value)
      return self.convert_in(value, type_spec.member)
    if isinstance(type_spec, tff.SequenceType):
      return self._sequence(value, type_spec)
    raise TypeError(f'Cannot pass {type(value).__name__} as a value of type {type_spec}.')

  def _tensor(self, value: Any, type_spec: tff.TensorType) -> tf.Tensor:
    known = self._tensors.get(id(value))
    if known is not None and known[0]() is value:
      tensor = known[1]
    elif isinstance(value, device_memory.DeviceArray):
      tensor = value.tensor
    elif isinstance(value, tf.Variable):
      tensor = value.read_value()
    else:
      tensor = value if isinstance(value, tf.Tensor) else self._new_tensor(value, type_spec)
    if tensor.dtype != tf.as_dtype(type_spec.dtype):
      raise TypeError(
        f'Expected a value of dtype {type_spec.dtype} for {type_spec}, found {tensor.dtype.name}.'
      )
    if not tf.TensorShape(type_spec.shape).is_compatible_with(tensor.shape):
      raise TypeError(f'Expected a value of shape {type_spec.shape}, found {tensor.shape}.')
    return tensor

  def _new_tensor(self, value: Any, type_spec: tff.TensorType) -> tf.Tensor:
    dtype = type_spec.dtype.type
    is_array = isinstance(value, (np.ndarray, np.generic))
    if not is_array and not isinstance(value, (bool, int, float, complex, str, bytes, list, tuple)):
      value = np.asarray(value)  # Arrays of other frameworks.
    if isinstance(value, (list, tuple)):
      compatible = all(native.is_compatible_dtype(leaf, dtype) for leaf in tf.nest.flatten(value))
    else:
      compatible = native.is_compatible_dtype(value, dtype)
    if not compatible:
      found = getattr(value, 'dtype', type(value).__name__)
      raise TypeError(
        f'Expected a value of dtype {type_spec.dtype} for {type_spec}, found {found}.'
      )
    return tf.convert_to_tensor(value, tf.as_dtype(type_spec.dtype))

  def _sequence(self, value: Any, type_spec: tff.SequenceType) -> Any:
    if isinstance(value, list):
      dataset = native.make_dataset_from_elements(None, value, type_spec.element)
      return sequences.Dataset(dataset, type_spec.element)
    if isinstance(value, client_datasets.ClientDataset):
      value = value.open()
    if not isinstance(value, tf.data.Dataset):
      raise TypeError(f'Expected a `tf.data.Dataset` or a list, found {type(value).__name__}.')
    known = self._datasets.get(id(value))
    if known is None or known[0]() is not value or known[2] != type_spec:
      found = tff.SequenceType(tff.types.tensorflow_to_type(value.element_spec))
      if not type_spec.is_assignable_from(found):
        raise TypeError(f'Expected a data set of type {type_spec}, found {found}.')
      key, table = id(value), self._datasets
      reference = weakref.ref(value, lambda _: table.pop(key, None))
      # The table must not refer to data sets, or they would never be freed.
      known = table[key] = (reference, sequences.Memo(value), type_spec)
    return sequences.Dataset(value, type_spec.element, known[1]).restarted()

  def convert_out(self, value: Any, type_spec: tff.Type) -> Any:
    """A result as NumPy values and data sets, in the containers of its type."""
    if isinstance(type_spec, tff.TensorType):
      return self._array(value)
    if isinstance(type_spec, tff.StructType):
      items = [self.convert_out(v, t) for v, t in zip(value, type_spec, strict=True)]
      names = tff.structure.name_list_with_nones(type_spec)
      struct = tff.structure.Struct(zip(names, items, strict=True))
      return tff.types.type_to_py_container(struct, type_spec)
    if isinstance(type_spec, tff.FederatedType):
      if isinstance(value, plan.AtClients):
        return [self.convert_out(v, type_spec.member) for v in value]
      return self.convert_out(value, type_spec.member)
    if isinstance(type_spec, tff.SequenceType):
      return value.as_dataset()
    raise TypeError(f'Cannot return a value of type {type_spec}.')

  def _array(self, tensor: Any) -> Any:
    if device_memory.is_on_device(tensor):
      return self._on_devices.give(tensor)
    array = np.asarray(tensor)
    if array.ndim == 0:
      return array[()]
    if array.dtype != object:
      array.flags.writeable = False
      key, table = id(array), self._tensors
      table[key] = (weakref.ref(array, lambda _: table.pop(key, None)), tensor)
    return array
