"""Sequences: data sets as values of computations, read into stacked batches.

TFF's stock runtime gets a data set as a serialised graph, and restarts it in each call. Here the
data set itself is read, in this process, with the same results: a shuffled data set starts from its
seeds in each call, and a computation that reads it twice in one call gets two passes.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import interruptible
from tff_lowrank.execution import native
from tff_lowrank.execution import repeatability


class Batches:
  """The elements of a data set in memory. All but the last have the same shapes.

  full: for each component, an array [num_full, ...].
  tail: the components of the last element if its shapes differ, such as a smaller batch; else None.
  shapes: the dtypes and shapes of a full element's components, and the shapes of the tail's.
  """

  def __init__(self, full: list[np.ndarray], tail: list[np.ndarray] | None):
    self.full = full
    self.tail = tail
    self.shapes = (
      tuple((a.dtype, a.shape[1:]) for a in full),
      None if tail is None else tuple(a.shape for a in tail),
    )

  @property
  def num_full(self) -> int:
    return len(self.full[0])

  @property
  def num_steps(self) -> int:
    return self.num_full + (self.tail is not None)


# How much of a data set is in memory at a time when it is read in parts.
_CHUNK_BYTES = 1 << 26
_CHUNK_ELEMENTS = 1 << 13


class Memo:
  """What is known about a data set. It does not keep the data set alive.

  is_repeatable: whether all passes give the same elements.
  batches: its elements in memory, after they have been read.
  is_unlike: whether it was read and its elements could not be stacked.
  graph: its serialised graph, after it was needed, if it can be used in all calls.
  """

  def __init__(self, dataset: tf.data.Dataset):
    self.is_repeatable = repeatability.is_repeatable(dataset)
    self.batches: Batches | None = None
    self.is_unlike = False
    self.graph: bytes | None = None


class Dataset:
  """A `tf.data.Dataset` as a sequence value, in one call."""

  def __init__(
    self,
    dataset: tf.data.Dataset,
    element_type: tff.Type,
    memo: Memo | None = None,
    origin: 'Dataset | None' = None,
  ):
    """Creates a sequence.

    Args:
      dataset: The data set.
      element_type: TFF's type of its elements.
      memo: What is known about it from other calls.
      origin: The sequence of which this is a restarted copy, or None.
    """
    self._element_type = element_type
    self._dataset = dataset
    self._memo = memo or Memo(dataset)
    self._origin = origin

  @property
  def element_type(self) -> tff.Type:
    return self._element_type

  @property
  def memo(self) -> Memo:
    return self._memo

  @property
  def is_repeatable(self) -> bool:
    return self._memo.is_repeatable

  def as_dataset(self) -> tf.data.Dataset:
    return self._dataset

  def restarted(self) -> 'Dataset':
    """The sequence for a new call, in which the state of its passes is restarted."""
    memo = self._memo
    if memo.is_repeatable:
      return self
    graph = memo.graph
    if graph is None:
      graph, holds_values = repeatability.graph_with_own_state(self._dataset)
      memo.graph = None if holds_values else graph
    if graph == repeatability.NO_GRAPH:
      return Dataset(self._dataset, self._element_type)
    copy = repeatability.copy_from_graph(graph, self._dataset.element_spec)
    return Dataset(copy, self._element_type, origin=self)

  def graph(self) -> bytes:
    """A graph for `from_graph` in another process, or `NO_GRAPH`."""
    origin = self._origin or self
    return origin._memo.graph or repeatability.graph_with_own_state(origin._dataset)[0]

  @classmethod
  def from_graph(
    cls, graph: bytes, element_spec: Any, element_type: tff.Type, is_repeatable: bool
  ) -> 'Dataset':
    """The sequence from which `graph` was made, for a new call."""
    dataset = repeatability.copy_from_graph(graph, element_spec)
    memo = Memo(dataset)
    memo.is_repeatable, memo.graph = is_repeatable, graph
    return cls(dataset, element_type, memo).restarted()

  def variant(self) -> tf.Tensor:
    return tf.data.experimental.to_variant(self._dataset)

  def elements(self) -> Iterator[list[tf.Tensor]]:
    """Each element's components, in TensorFlow's order."""
    for element in interruptible.elements(self._dataset):
      yield tf.nest.flatten(element, expand_composites=True)

  def batches(self) -> Batches | None:
    """All elements in memory, or None if they cannot be stacked.

    For a sequence that is not repeatable these are those of the first pass; `chunks` reuses them.
    """
    memo = self._memo
    if memo.batches is None and not memo.is_unlike:
      memo.batches = stack(self.elements())
      memo.is_unlike = memo.batches is None
      if memo.is_unlike and self._origin is not None:
        self._dataset = self._origin.restarted().as_dataset()  # As before it was read.
    return memo.batches

  def chunks(self) -> Iterator[list[Any]]:
    batches = self._memo.batches
    if batches is None:
      return chunks(self.elements())
    if not self.is_repeatable:
      self._memo.batches = None
    full, tail = batches.full, batches.tail
    return iter([full] if tail is None else [full, [a[np.newaxis] for a in tail]])


class Variant:
  """A sequence value made in a TensorFlow graph, given as its variant tensor."""

  is_repeatable = False

  def batches(self) -> None:
    """Read as it comes."""

  def __init__(self, variant: tf.Tensor, element_type: tff.Type):
    self._variant = variant
    self._element_type = element_type

  @property
  def element_type(self) -> tff.Type:
    return self._element_type

  def restarted(self) -> 'Variant':
    return self

  def variant(self) -> tf.Tensor:
    return self._variant

  def as_dataset(self) -> tf.data.Dataset:
    dataset = tf.data.experimental.from_variant(self._variant, _element_spec(self._element_type))
    return native.coerce_dataset_elements(dataset, self._element_type)

  def elements(self) -> Iterator[list[tf.Tensor]]:
    return read_variant(self._variant, _element_spec(self._element_type))

  def chunks(self) -> Iterator[list[Any]]:
    return chunks(self.elements())


class Elements:
  """A sequence value given as a list of values of TFF's element type, with structs as lists."""

  is_repeatable = True

  def batches(self) -> None:
    """Read as it comes."""

  def __init__(self, values: Sequence[Any], element_type: tff.Type):
    self._values = values
    self._element_type = element_type

  @property
  def element_type(self) -> tff.Type:
    return self._element_type

  def restarted(self) -> 'Elements':
    return self

  def as_dataset(self) -> tf.data.Dataset:
    def contained(value: Any, type_spec: tff.Type) -> Any:
      if isinstance(type_spec, tff.StructType):
        items = [contained(v, t) for v, t in zip(value, type_spec, strict=True)]
        names = tff.structure.name_list_with_nones(type_spec)
        struct = tff.structure.Struct(zip(names, items, strict=True))
        return tff.types.type_to_py_container(struct, type_spec)
      return np.asarray(value)

    values = [contained(value, self._element_type) for value in self._values]
    return native.make_dataset_from_elements(None, values, self._element_type)

  def variant(self) -> tf.Tensor:
    return tf.data.experimental.to_variant(self.as_dataset())

  def elements(self) -> Iterator[list[tf.Tensor]]:
    order = component_order(self._element_type)
    for value in self._values:
      leaves = flatten(value)
      yield [tf.convert_to_tensor(leaves[i]) for i in order]

  def chunks(self) -> Iterator[list[Any]]:
    return chunks(self.elements())


def read_variant(variant: tf.Tensor, structure: Any) -> Iterator[list[tf.Tensor]]:
  """The components of each element of a data set, which is given as its variant tensor."""
  for element in interruptible.elements(tf.data.experimental.from_variant(variant, structure)):
    yield tf.nest.flatten(element, expand_composites=True)


def flatten(value: Any) -> list[Any]:
  """The leaves of a value, whose structs are lists."""
  if isinstance(value, list):
    return [leaf for item in value for leaf in flatten(item)]
  return [value]


def pack(leaves: Iterator[Any], type_spec: tff.Type) -> Any:
  """A value of `type_spec` with the given leaves. Structs are lists."""
  if isinstance(type_spec, tff.StructType):
    return [pack(leaves, t) for t in type_spec]
  return next(leaves)


def component_order(element_type: tff.Type) -> list[int]:
  """For each component of TensorFlow's elements, the index of its leaf in the TFF type.

  The orders differ because TensorFlow sorts the keys of dictionaries.
  """
  count = iter(range(1_000_000))

  def numbered(type_spec: tff.Type) -> Any:
    if isinstance(type_spec, tff.StructType):
      names = tff.structure.name_list_with_nones(type_spec)
      values = [numbered(t) for t in type_spec]
      has_names = any(name is not None for name in names)
      return dict(zip(names, values, strict=True)) if has_names else tuple(values)
    return next(count)

  return tf.nest.flatten(numbered(element_type))


def values(sequence: Any, element_type: tff.Type) -> Iterator[Any]:
  """The elements as TFF values. Structs are lists."""
  order = component_order(element_type)
  for components in sequence.elements():
    leaves: list[Any] = [None] * len(order)
    for component, leaf in zip(components, order, strict=True):
      leaves[leaf] = component
    yield pack(iter(leaves), element_type)


def _element_spec(element_type: tff.Type) -> Any:
  """The element spec of TensorFlow data sets of `element_type`."""
  if isinstance(element_type, tff.StructType):
    names = tff.structure.name_list_with_nones(element_type)
    values = [_element_spec(t) for t in element_type]
    if any(name is not None for name in names):
      return dict(zip(names, values, strict=True))
    return tuple(values)
  if isinstance(element_type, tff.SequenceType):
    return tf.data.DatasetSpec(_element_spec(element_type.element))
  return tf.TensorSpec(element_type.shape, tf.as_dtype(element_type.dtype))


def chunks(elements: Iterator[Sequence[tf.Tensor]]) -> Iterator[list[Any]]:
  """Consecutive elements of equal shapes, with each component stacked to [num_elements, ...].

  Elements that cannot be stacked, such as nested data sets, come one by one, as [1, ...].
  """
  run: list[Sequence[Any]] = []
  shapes, size = None, 0
  for element in elements:
    if all(t.dtype.is_numpy_compatible and t.dtype != tf.string for t in element):
      element = [np.asarray(t) for t in element]
    new_shapes = [tuple(t.shape) for t in element]
    is_full = size >= _CHUNK_BYTES or len(run) >= _CHUNK_ELEMENTS
    if run and (new_shapes != shapes or is_full):
      yield _stacked(run)
      run, size = [], 0
    run.append(element)
    shapes = new_shapes
    size += sum(t.nbytes if isinstance(t, np.ndarray) else _CHUNK_BYTES for t in element)
  if run:
    yield _stacked(run)


def _stacked(run: list[Sequence[Any]]) -> list[Any]:
  return [
    np.stack(component) if isinstance(component[0], np.ndarray) else tf.stack(component)
    for component in zip(*run, strict=True)
  ]


def stack(elements: Iterator[Sequence[tf.Tensor]]) -> Batches | None:
  """All elements; None if there are none, or if they cannot be stacked.

  Elements can be stacked if they are numbers, and all but the last have the same shapes.
  """
  read = list(itertools.islice(_joined(chunks(elements)), 3))
  if not 1 <= len(read) <= 2 or not all(isinstance(a, np.ndarray) for a in read[0]) or not read[0]:
    return None
  if len(read) == 1:
    return Batches(read[0], None)
  full, last = read
  return Batches(full, [a[0] for a in last]) if len(last[0]) == 1 else None


def _joined(pieces: Iterator[list[Any]]) -> Iterator[list[Any]]:
  """The same elements, with consecutive pieces of equal shapes joined."""
  for _, alike in itertools.groupby(pieces, key=lambda piece: [a.shape[1:] for a in piece]):
    group = list(alike)
    is_array = all(isinstance(a, np.ndarray) for a in group[0])
    if len(group) == 1 or not is_array:
      yield from group
    else:
      yield [np.concatenate(component) for component in zip(*group, strict=True)]
