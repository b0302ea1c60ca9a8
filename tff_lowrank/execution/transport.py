"""Packs values of computations so that they can be pickled, and unpacks them.

A value is a tensor, a list (a struct), a sequence, or a value stored elsewhere. A large array is
put into the object store once, even if it is sent several times.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any
import weakref

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import client_datasets
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import repeatability
from tff_lowrank.execution import sequences
from tff_lowrank.execution import stored

# How many bytes of data sets that came as arrays are kept for the next round.
_KEPT_BYTES = 1 << 28


@dataclasses.dataclass(frozen=True)
class Held:
  """A value in the object store.

  references: of equal copies of it.
  leaf: the position of one array in the value, if only this array is meant; else None.
  """

  references: tuple[Any, ...]
  leaf: int | None = None


@dataclasses.dataclass(frozen=True)
class AtClientsSlot:
  """A slot in a packed value for a value that differs between clients. number: which value."""

  number: int


@dataclasses.dataclass(frozen=True)
class Described:
  """The description of a client's data set, as a value."""

  description: client_datasets.ClientDataset
  type_spec: tff.SequenceType


@dataclasses.dataclass(frozen=True)
class _Description:
  source: Held
  identity: str
  client_id: str
  round_num: int
  is_empty_refused: bool
  element_type: Any


@dataclasses.dataclass(frozen=True)
class _Batches:
  full: list[np.ndarray]
  tail: list[np.ndarray] | None
  element_spec: Any
  element_type: Any


@dataclasses.dataclass(frozen=True)
class _Graph:
  graph: bytes
  is_repeatable: bool
  is_variant: bool
  element_spec: Any
  element_type: Any


@dataclasses.dataclass(frozen=True)
class _Elements:
  """Components of each element, in TensorFlow's order."""

  elements: list[list[Any]]
  is_repeatable: bool
  element_spec: Any
  element_type: Any


class _ArrayDataset(sequences.Dataset):
  """A sequence of batches in memory. A `tf.data.Dataset` is made only when needed."""

  def __init__(self, batches: sequences.Batches, element_spec: Any, element_type: tff.Type):
    self._element_spec = element_spec
    self._made: tf.data.Dataset | None = None
    memo = sequences.Memo(None)
    memo.is_repeatable, memo.batches = True, batches
    super().__init__(None, element_type, memo)

  @property
  def _dataset(self) -> tf.data.Dataset:
    if self._made is None:
      batches, pack = self._memo.batches, tf.nest.pack_sequence_as
      assert batches is not None
      dataset = tf.data.Dataset.from_tensor_slices(pack(self._element_spec, batches.full))
      if batches.tail is not None:
        tail = tf.data.Dataset.from_tensors(pack(self._element_spec, batches.tail))
        dataset = with_spec(dataset, self._element_spec).concatenate(
          with_spec(tail, self._element_spec)
        )
      self._made = with_spec(dataset, self._element_spec)
    return self._made

  @_dataset.setter
  def _dataset(self, value: None) -> None:
    del value


def with_spec(dataset: tf.data.Dataset, element_spec: Any) -> tf.data.Dataset:
  """The same data set, declared to have `element_spec`."""
  variant = tf.data.experimental.to_variant(dataset)
  return tf.data.experimental.from_variant(variant, element_spec)


class Packer:
  """Packs the values of one run of a computation.

  num_bytes: the bytes of arrays that were put into the store or sent with a message.
  """

  def __init__(self, put: Callable[[Any], Any], known: weakref.WeakKeyDictionary):
    """Creates the packer.

    Args:
      put: Puts a value that can be pickled into the store; returns a reference to it.
      known: Sources and memos of data sets -> references, for those put by earlier runs.
    """
    self._put, self._known = put, known
    self._arrays: dict[int, tuple[Any, Held]] = {}
    self.num_bytes = 0

  def put(self, value: Any) -> Any:
    """Puts a packed value; returns a reference to it."""
    return self._put(value)

  def pack(self, value: Any, slots: list[plan_lib.AtClients] | None = None) -> Any:
    """`value`, packed. Values that differ between clients are appended to `slots`."""
    if isinstance(value, plan_lib.AtClients):
      assert slots is not None
      slots.append(value)
      return AtClientsSlot(len(slots) - 1)
    if isinstance(value, list):
      return [self.pack(item, slots) for item in value]
    if isinstance(value, stored.StoredValue):
      return Held(value.references)
    if isinstance(value, stored.StoredArray):
      return Held(value.value.references, value.index)
    if isinstance(value, Described):
      return self._description(value)
    if isinstance(value, (tf.Tensor, np.ndarray, np.generic, bytes)):
      return self._array(value)
    return self._sequence(value)

  def _array(self, value: Any) -> Any:
    if isinstance(value, tf.Tensor) and value.dtype == tf.variant:
      raise TypeError(f'A value of type {value.dtype.name} cannot be sent to another process.')
    known = self._arrays.get(id(value))
    if known is not None:
      return known[1]
    array = np.asarray(value)
    self.num_bytes += array.nbytes
    if array.nbytes < stored.MIN_BYTES or array.dtype.hasobject:
      return array
    held = Held((self._put(array),))
    self._arrays[id(value)] = (value, held)
    return held

  def _description(self, value: Described) -> _Description:
    description, source = value.description, value.description.source
    if source not in self._known:
      self._known[source] = Held((self._put(source),))
    return _Description(
      self._known[source],
      source.identity,
      description.client_id,
      description.round_num,
      description.is_empty_refused,
      tff.types.serialize_type(value.type_spec.element),
    )

  def _sequence(self, value: Any) -> Any:
    memo = getattr(value, 'memo', None)
    if memo is not None and memo in self._known:
      return self._known[memo]
    packed = _packed_sequence(value)
    if isinstance(packed, _Batches):
      size = sum(a.nbytes for a in (*packed.full, *(packed.tail or ())))
      self.num_bytes += size
      if size >= stored.MIN_BYTES:
        packed = self._known[memo] = Held((self._put(packed),))
    elif isinstance(packed, _Graph):
      self.num_bytes += len(packed.graph)
    else:
      arrays = (np.asarray(a) for element in packed.elements for a in element)
      self.num_bytes += sum(a.nbytes for a in arrays)
    return packed


def _packed_sequence(value: Any) -> Any:
  element_type = tff.types.serialize_type(value.element_type)
  if isinstance(value, sequences.Elements):
    elements = [[_plain(t) for t in element] for element in value.elements()]
    return _Elements(elements, True, None, element_type)
  dataset = value.as_dataset()
  batches = value.batches() if value.is_repeatable else None
  if batches is not None:
    return _Batches(batches.full, batches.tail, dataset.element_spec, element_type)
  is_variant = isinstance(value, sequences.Variant)
  if is_variant:
    graph, _ = repeatability.graph_with_own_state(dataset)
  else:
    graph = value.graph()
  if graph != repeatability.NO_GRAPH and not repeatability.is_of_this_process(graph):
    return _Graph(graph, value.is_repeatable, is_variant, dataset.element_spec, element_type)
  elements = [[_plain(t) for t in element] for element in value.elements()]
  return _Elements(elements, False, dataset.element_spec, element_type)


def plain(value: Any) -> Any:
  """`value`, packed without using the store."""
  if isinstance(value, list):
    return [plain(item) for item in value]
  return _plain(value) if isinstance(value, (tf.Tensor, np.ndarray)) else _packed_sequence(value)


def _plain(tensor: Any) -> Any:
  if isinstance(tensor, tf.Tensor) and tensor.dtype == tf.variant:
    raise TypeError(
      'A data set that TensorFlow cannot serialise, and whose elements are data sets, cannot be '
      'sent to another process. Use a `ClientDataset`, which is opened there.'
    )
  return np.asarray(tensor)


class Unpacker:
  """Unpacks the values of a `Packer`. It keeps the sources of clients' data."""

  def __init__(self, get: Callable[[Sequence[Held]], list[Any]]):
    """`get`: returns the packed values of values in the store."""
    self._get = get
    self._sources: dict[str, client_datasets.DataSource] = {}
    self._datasets = _Recent(_KEPT_BYTES)

  def unpack(self, packed: Any) -> Any:
    """The value. All its parts in the store are fetched together."""
    missing = [h for h in dict.fromkeys(self._held(packed)) if h not in self._datasets]
    return self._unpack(packed, dict(zip(missing, self._get(missing), strict=True)))

  def _held(self, packed: Any) -> Iterator[Held]:
    if isinstance(packed, list):
      for item in packed:
        yield from self._held(item)
    elif isinstance(packed, Held):
      yield packed
    elif isinstance(packed, _Description) and packed.identity not in self._sources:
      yield packed.source

  def _unpack(self, packed: Any, found: dict[Held, Any]) -> Any:
    if isinstance(packed, list):
      return [self._unpack(item, found) for item in packed]
    if isinstance(packed, Held):
      if packed in self._datasets:
        return self._datasets[packed]
      value = found[packed]
      if isinstance(value, _Batches):
        size = sum(a.nbytes for a in (*value.full, *(value.tail or ())))
        return self._datasets.add(packed, _unpacked_sequence(value), size)
      return self._unpack(value if packed.leaf is None else value[packed.leaf], found)
    if isinstance(packed, _Description):
      new: Any = found.get(packed.source)
      source = self._sources.setdefault(packed.identity, new)
      return _described(packed, source)
    if isinstance(packed, (_Batches, _Graph, _Elements)):
      return _unpacked_sequence(packed)
    return packed if isinstance(packed, AtClientsSlot) else tf.convert_to_tensor(packed)


def unpack_plain(packed: Any) -> Any:
  """The inverse of `plain`."""
  return Unpacker(lambda held: []).unpack(packed)


class _Recent(dict):
  """A cache of limited size, which removes the oldest entries first."""

  def __init__(self, max_bytes: int):
    self._max_bytes = max_bytes
    self._sizes: dict[Any, int] = {}

  def add(self, key: Any, value: Any, size: int) -> Any:
    self[key], self._sizes[key] = value, size
    while sum(self._sizes.values()) > self._max_bytes and len(self) > 1:
      oldest = next(iter(self))
      del self[oldest], self._sizes[oldest]
    return value


def _described(packed: _Description, source: client_datasets.DataSource) -> Described:
  description = client_datasets.ClientDataset(
    source, packed.client_id, packed.round_num, is_empty_refused=packed.is_empty_refused
  )
  return Described(description, tff.SequenceType(tff.types.deserialize_type(packed.element_type)))


def _unpacked_sequence(packed: Any) -> Any:
  """The sequence that was packed, for a new call."""
  element_type = tff.types.deserialize_type(packed.element_type)
  if isinstance(packed, _Batches):
    batches = sequences.Batches(packed.full, packed.tail)
    return _ArrayDataset(batches, packed.element_spec, element_type)
  if isinstance(packed, _Graph):
    if packed.is_variant:
      dataset = repeatability.copy_from_graph(packed.graph, packed.element_spec)
      return sequences.Variant(tf.data.experimental.to_variant(dataset), element_type)
    return sequences.Dataset.from_graph(
      packed.graph, packed.element_spec, element_type, packed.is_repeatable
    )
  leaves_order = sequences.component_order(element_type)
  values = []
  for components in packed.elements:
    leaves: list[Any] = [None] * len(leaves_order)
    for component, leaf in zip(components, leaves_order, strict=True):
      leaves[leaf] = tf.convert_to_tensor(component)
    values.append(sequences.pack(iter(leaves), element_type))
  elements = sequences.Elements(values, element_type)
  if packed.is_repeatable:
    return elements
  dataset = with_spec(elements.as_dataset(), packed.element_spec)
  memo = sequences.Memo(dataset)
  memo.is_repeatable = False
  return sequences.Dataset(dataset, element_type, memo)
