"""Clients' values that stay on the machines where clients run.

A context of many machines can leave a client's value where it was made. What the program gets
then are `StoredArray`s in the place of arrays. They can be handed in to the next round, which
moves nothing through the process that runs the program, and are fetched where numbers are asked
for.
"""

import abc
from collections.abc import Iterator, Sequence
import contextlib
import threading
from typing import Any

import numpy as np
import tensorflow_federated as tff

# What is smaller travels with the messages.
MIN_BYTES = 1 << 16

_local = threading.local()


@contextlib.contextmanager
def client_values_stay() -> Iterator[None]:
  """Inside, computations leave large values at clients where they are, if the context can.

  It is for this thread, and for values of at least `MIN_BYTES` a client.
  """
  before = do_client_values_stay()
  _local.stay = True
  try:
    yield
  finally:
    _local.stay = before


def do_client_values_stay() -> bool:
  """Whether this thread is inside `client_values_stay`."""
  return getattr(_local, 'stay', False)


class LostError(ConnectionError):
  """What was stored on other machines is there no more, nor any copy of it."""


class RemoteArray(np.lib.mixins.NDArrayOperatorsMixin, abc.ABC):
  """An array whose numbers are elsewhere until somebody asks for them.

  It does all that a read-only NumPy array does, and copies its numbers here each time.
  """

  def __init__(self, shape: tuple[int, ...], dtype: Any):
    self.shape, self.dtype = shape, np.dtype(dtype)

  @abc.abstractmethod
  def fetch(self) -> np.ndarray:
    """Its numbers."""

  def __array__(self, dtype: Any = None) -> np.ndarray:
    array = self.fetch()
    return array if dtype is None else array.astype(dtype, copy=False)

  def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    here = [np.asarray(x) if isinstance(x, RemoteArray) else x for x in inputs]
    return getattr(ufunc, method)(*here, **kwargs)

  def __getattr__(self, name: str) -> Any:
    if name.startswith('__') or not hasattr(np.ndarray, name):
      raise AttributeError(f'{type(self).__name__} has no attribute {name!r}')
    return getattr(self.fetch(), name)

  def __getitem__(self, index: Any) -> Any:
    return self.fetch()[index]

  def __len__(self) -> int:
    return len(self.fetch()) if not self.shape else self.shape[0]

  def __iter__(self) -> Iterator[Any]:
    return iter(self.fetch())

  def __reduce__(self) -> Any:
    return np.array, (self.fetch(),)

  def __repr__(self) -> str:
    return f'{type(self).__name__}({self.dtype.name} {list(self.shape)})'


class StoredValue(abc.ABC):
  """A client's value that is stored elsewhere, of tensors that are numbers.

  references: what names it there. places: where it is.
  """

  references: Any
  places: Any

  def __init__(self, specs: Sequence[tuple[tuple[int, ...], np.dtype]]):
    """`specs`: the shape and dtype of each tensor."""
    self.arrays = [StoredArray(self, i, *spec) for i, spec in enumerate(specs)]

  @abc.abstractmethod
  def fetch(self) -> list[np.ndarray]:
    """The tensors; raises LostError if they are lost."""


class StoredArray(RemoteArray):
  """One tensor of a stored value. value: of which this is the tensor at position `index`."""

  def __init__(self, value: StoredValue, index: int, shape: tuple[int, ...], dtype: np.dtype):
    super().__init__(shape, dtype)
    self.value, self.index = value, index

  def fetch(self) -> np.ndarray:
    return self.value.fetch()[self.index]


def specs_of(type_spec: tff.Type) -> list[tuple[tuple[int, ...], np.dtype]] | None:
  """Shape and dtype of each tensor of a type; None if it has others than numbers of one shape."""
  if isinstance(type_spec, tff.StructType):
    parts = [specs_of(t) for t in type_spec]
    known = [part for part in parts if part is not None]
    return [spec for part in known for spec in part] if len(known) == len(parts) else None
  if not isinstance(type_spec, tff.TensorType) or None in (type_spec.shape or ()):
    return None
  dtype = np.dtype(type_spec.dtype)
  is_number = dtype.kind in 'biufc' and type_spec.shape is not None
  return [(tuple(type_spec.shape), dtype)] if is_number else None


def num_bytes(specs: Sequence[tuple[tuple[int, ...], np.dtype]]) -> int:
  """Of the tensors of these shapes and dtypes."""
  return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in specs)
