"""Reads clients from the files that TFF distributes, one at a time, with only ids in memory.

TFF 0.87 has SQLite files (see tff.simulation.datasets.SqlClientData): tables `examples`, with one
serialised tf.train.Example per row, and `client_metadata`. Earlier versions had HDF5 files with an
array `examples/CLIENT/FEATURE` for each client and feature. Both give the same result here: a
client's features, `{name: array [num_examples, ...]}`.
"""

import abc
import bisect
from collections.abc import Callable, Iterator, Mapping
import contextlib
import itertools
import math
import pathlib
import sqlite3
from typing import Any, TypeVar

import h5py
import numpy as np
import tensorflow as tf

from tff_lowrank import files
from tff_lowrank.datasets import arrays

Features = Mapping[str, np.ndarray]
Spec = Mapping[str, tf.io.FixedLenFeature]  # How to parse an example.
_Child = TypeVar('_Child', h5py.Group, h5py.Dataset)

_HDF5, _SQLITE = 'HDF5 with a group `examples`', "TFF's SQLite format"
# The limit for a client and feature: 20,000 of EMNIST's images. Small files can claim to have more,
# compressed or never written.
_MAX_BYTES = 1 << 26
# The limit of SQLite's steps in a query per byte of the file: a row has a few bytes and takes about
# ten steps. In damaged files a query may never end.
_STEPS_PER_BYTE, _STEPS_AT_ONCE = 100, 1_000_000


class ClientFile(abc.ABC):
  """Clients' features by id. `client_ids` is sorted."""

  client_ids: list[str]

  @abc.abstractmethod
  def read(self, client_id: str, limit: int | None = None) -> Features:
    """The features of a client's first `limit` examples, all by default."""


class MemoryFile(ClientFile):
  """Features in memory, by client."""

  def __init__(self, clients: Mapping[str, Features]):
    self._clients = clients
    self.client_ids = sorted(clients)

  def read(self, client_id: str, limit: int | None = None) -> Features:
    return {name: values[:limit] for name, values in self._clients[client_id].items()}


class Hdf5File(ClientFile):
  """An HDF5 file in TFF's format.

  Raises FileError if `path` is not such a file, here or when a client is read. Known limit: with
  one of 4,000 randomly damaged files, libhdf5 never stopped searching, with growing memory.
  """

  def __init__(self, path: pathlib.Path, features: Spec):
    """Reads the ids.

    Args:
      path: The file.
      features: The features to read, as in TFF's SQLite files; dtypes may have other sizes.
    """
    self._path, self._features = path, dict(features)
    with self._open() as examples:
      self.client_ids = sorted(examples)
      ''.join(self.client_ids).encode()  # Raises if one is not text.
    if not self.client_ids:
      raise files.FileError(path, 'clients in the group `examples`', 'none')

  @contextlib.contextmanager
  def _open(self) -> Iterator[h5py.Group]:
    with files.reading(self._path, _HDF5), h5py.File(self._path, 'r') as file:
      yield self._child(file, 'examples', h5py.Group)

  def _child(self, group: h5py.Group, name: str, kind: type[_Child]) -> _Child:
    # Links other than hard links may lead to other files.
    is_inside = isinstance(group.get(name, getlink=True), h5py.HardLink)
    if not is_inside or not isinstance(group[name], kind):
      expected = f'a {kind.__name__.lower()} {name!r} in {group.name}'
      raise files.FileError(self._path, expected, 'something else' if is_inside else 'none')
    return group[name]

  def read(self, client_id: str, limit: int | None = None) -> Features:
    with self._open() as examples:
      client = self._child(examples, client_id, h5py.Group)
      values = {name: self._array(client, name, limit) for name in self._features}
    if len({len(array) for array in values.values()}) != 1:
      lengths = ', '.join(f'{name} {len(array)}' for name, array in values.items())
      raise files.FileError(
        self._path, f'as many of each feature of the client {client_id!r}', lengths
      )
    return values

  def _array(self, client: h5py.Group, name: str, limit: int | None) -> np.ndarray:
    dataset, spec = self._child(client, name, h5py.Dataset), self._features[name]
    if spec.dtype == tf.string:
      is_kind = h5py.check_string_dtype(dataset.dtype) is not None
    else:
      is_kind = dataset.dtype.kind in ('f' if spec.dtype.is_floating else 'iu')
    if not is_kind or dataset.shape[1:] != tuple(spec.shape) or not dataset.shape:
      raise files.FileError(
        self._path,
        f'{spec.dtype.name} of shape {["n", *spec.shape]} as {client.name}/{name}',
        f'{dataset.dtype} of shape {list(dataset.shape)}',
      )
    if dataset.external or dataset.is_virtual:
      raise files.FileError(self._path, f'{client.name}/{name}', 'that it is in other files')
    shape = (dataset.shape[0] if limit is None else min(limit, dataset.shape[0]), *spec.shape)
    size = max(math.prod(shape), math.prod(dataset.chunks or ())) * dataset.dtype.itemsize
    if size > _MAX_BYTES:
      expected = f'at most {_MAX_BYTES:,} bytes of {client.name}/{name}'
      raise files.FileError(self._path, expected, f'{size:,}')
    return dataset[: shape[0]]


class SqliteFile(ClientFile):
  """One split of an SQLite file in TFF's format.

  Raises FileError if `path` is not such a file or the split has no clients, here or when a client
  is read.
  """

  def __init__(self, path: pathlib.Path, split: str, features: Spec):
    """Reads the ids.

    Args:
      path: The file.
      split: The name of the split in the column `split_name`.
      features: How to parse an example.
    """
    self._path, self._split, self._features = path, split, dict(features)
    query = 'SELECT DISTINCT client_id FROM client_metadata WHERE split_name = ?'
    with files.reading(path, _SQLITE):
      (page,) = self._column(str, 'SELECT CAST(page_size AS TEXT) FROM pragma_page_size')
      if path.stat().st_size % int(page):
        raise ValueError(f'a part of a page of {page} bytes at its end')
      self.client_ids = sorted(self._column(str, query, split))
    if not self.client_ids:
      raise files.FileError(path, f'clients in the split {split!r}', 'none')

  def _column(self, kind: type, query: str, *arguments: str | int) -> list[Any]:
    """The only column of a query's rows, of type `kind`, checked to be smaller than the file."""
    size, rows = self._path.stat().st_size, []
    steps = itertools.count(1)
    uri = f'{self._path.absolute().as_uri()}?mode=ro'
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
      connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(size, 2**31 - 1))
      connection.set_progress_handler(
        lambda: next(steps) * _STEPS_AT_ONCE > _STEPS_AT_ONCE + _STEPS_PER_BYTE * size,
        _STEPS_AT_ONCE,
      )
      left = size
      for (value,) in connection.execute(query, arguments):
        if not isinstance(value, kind):
          raise ValueError(f'{type(value).__name__} in a column of {kind.__name__}')
        left -= 1 + len(value)  # type: ignore[arg-type]  # Texts or bytes.
        if left < 0:
          raise ValueError('more data than the file can have')
        rows.append(value)
    return rows

  def read(self, client_id: str, limit: int | None = None) -> Features:
    query = (
      'SELECT serialized_example_proto FROM examples WHERE client_id = ? AND split_name = ? '
      'ORDER BY rowid LIMIT ?'
    )
    rows = -1 if limit is None else limit
    with files.reading(self._path, _SQLITE):
      serialized = np.array(self._column(bytes, query, client_id, self._split, rows), np.object_)
      try:
        parsed = tf.io.parse_example(tf.constant(serialized, tf.string), self._features)
      except (tf.errors.OpError, UnicodeDecodeError) as e:  # TensorFlow's error quotes all bytes.
        expected = f'examples of the client {client_id!r} with {", ".join(self._features)}'
        raise files.FileError(self._path, expected, 'others') from e
    return {name: values.numpy() for name, values in parsed.items()}


class FileClientData(arrays.ExampleClientData):
  """Client data that reads a client's examples from a file each time they are needed."""

  def __init__(
    self,
    file: ClientFile,
    to_examples: Callable[[Features], arrays.Split],
    max_examples: int | None = None,
  ):
    """Creates the client data.

    Args:
      file: The file with the clients.
      to_examples: Features -> examples; their numbers may differ.
      max_examples: Reads only this many first examples of each client in the file.
    """
    self._file, self._to_examples, self._max_examples = file, to_examples, max_examples

  @property
  def client_ids(self) -> list[str]:
    return self._file.client_ids

  def examples(self, client_id: str) -> arrays.Split:
    ids = self._file.client_ids
    position = bisect.bisect_left(ids, client_id)
    if position == len(ids) or ids[position] != client_id:
      raise ValueError(f'There is no client {client_id!r} among {len(ids)} clients.')
    return self._to_examples(self._file.read(client_id, self._max_examples))

  def pooled(self, max_examples: int | None = None, seed: int = 0) -> arrays.Split:
    """The examples of all clients, or of `max_examples` entries of random clients."""
    order = self.client_ids
    if max_examples is not None:
      order = [order[i] for i in np.random.default_rng(seed).permutation(len(order))]
    read, count = [], 0
    for client_id in order:
      left = None if max_examples is None else max_examples - count
      if left == 0:
        break
      read.append(self._file.read(client_id, left))
      count += len(next(iter(read[-1].values())))
    return self._to_examples({k: np.concatenate([part[k] for part in read]) for k in read[0]})
