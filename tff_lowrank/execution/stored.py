"""Clients' values that stay on the machines where clients run.

A context of many machines can keep a client's value on the machine where it was made. The program
then gets `StoredArray`s in place of arrays. As arguments of the next round, they are not sent
through the process that runs the program. They are fetched when their numbers are read.
"""

import abc
from collections.abc import Iterator, Sequence
import contextlib
import threading
from typing import Any

import numpy as np
import tensorflow_federated as tff

# Smaller values are sent with the messages.
MIN_BYTES = 1 << 16

_local = threading.local()


@contextlib.contextmanager
def client_values_stay() -> Iterator[None]:
  """Inside, large values at clients stay on their machines, if the context supports this.

  It affects this thread only, and values of at least `MIN_BYTES` per client.
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
  """A value stored on other machines is lost, with all its copies."""


class RemoteArray(np.lib.mixins.NDArrayOperatorsMixin, abc.ABC):
  """An array whose numbers are stored elsewhere, and fetched when they are read.

  It can be used like a read-only NumPy array. Each use copies its numbers to this process.
  """

  def __init__(self, shape: tuple[int, ...], dtype: Any):
    self.shape, self.dtype = shape, np.dtype(dtype)

  @abc.abstractmethod
  def fetch(self) -> np.ndarray:
    """Copies the numbers to this process."""

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
  """A client's value, of numeric tensors, that is stored elsewhere.

  references: identify it there. places: where it is.
  """

  references: Any
  places: Any

  def __init__(self, specs: Sequence[tuple[tuple[int, ...], np.dtype]]):
    """`specs`: the shape and dtype of each tensor."""
    self.arrays = [StoredArray(self, i, *spec) for i, spec in enumerate(specs)]

  @abc.abstractmethod
  def fetch(self) -> list[np.ndarray]:
    """The tensors. Raises LostError if they are lost."""


class StoredArray(RemoteArray):
  """One tensor of a stored value: the one at position `index` of `value`."""

  def __init__(self, value: StoredValue, index: int, shape: tuple[int, ...], dtype: np.dtype):
    super().__init__(shape, dtype)
    self.value, self.index = value, index

  def fetch(self) -> np.ndarray:
    return self.value.fetch()[self.index]


def specs_of(type_spec: tff.Type) -> list[tuple[tuple[int, ...], np.dtype]] | None:
  """Shape and dtype of each tensor of a type; None if one is not numeric or of unknown shape."""
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
  """The size in bytes of tensors with these shapes and dtypes."""
  return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for shape, dtype in specs)
