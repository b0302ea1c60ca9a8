"""Clients in the files that TFF distributes: read a client at a time, only ids in memory.

TFF 0.87 has SQLite files (see tff.simulation.datasets.SqlClientData): tables `examples`, a
serialised tf.train.Example a row, and `client_metadata`; earlier versions had HDF5 files with an
array `examples/CLIENT/FEATURE` for each client and feature. What is read here is equal in both: a
client's features, `{name: array [num_examples, ...]}`.
"""

import abc
import bisect
from collections.abc import Callable, Mapping
import pathlib
import sqlite3

import h5py
import numpy as np
import tensorflow as tf

from tff_lowrank.datasets import arrays

Features = Mapping[str, np.ndarray]


class ClientFile(abc.ABC):
  """Clients' features by id. `client_ids` is sorted."""

  client_ids: list[str]

  @abc.abstractmethod
  def read(self, client_id: str, limit: int | None = None) -> Features:
    """The features of a client's first `limit` examples, all by default."""

  def num_examples(self) -> int | None:
    """How many examples all clients have; None if it is not known without reading them."""
    return None


class MemoryFile(ClientFile):
  """Features that are in memory, by client."""

  def __init__(self, clients: Mapping[str, Features]):
    self._clients = clients
    self.client_ids = sorted(clients)

  def read(self, client_id: str, limit: int | None = None) -> Features:
    return {name: values[:limit] for name, values in self._clients[client_id].items()}


class Hdf5File(ClientFile):
  """An HDF5 file as TFF distributed them.

  Raises ValueError if `path` is none.
  """

  def __init__(self, path: pathlib.Path):
    self._path = path
    try:
      with h5py.File(path, 'r') as file:
        self.client_ids = sorted(file['examples'])
    except (OSError, KeyError, TypeError) as e:
      raise ValueError(f'{path}: expected HDF5 with a group `examples`, found: {e}.') from e

  def read(self, client_id: str, limit: int | None = None) -> Features:
    with h5py.File(self._path, 'r') as file:
      return {name: values[:limit] for name, values in file['examples'][client_id].items()}


class SqliteFile(ClientFile):
  """One split of an SQLite file as TFF distributes them.

  Raises ValueError if `path` is none or has no client in the split.
  """

  def __init__(self, path: pathlib.Path, split: str, features: Mapping[str, tf.io.FixedLenFeature]):
    """Reads the ids.

    Args:
      path: Of the file.
      split: Its name in the column `split_name`.
      features: How to parse an example.
    """
    self._path, self._split, self._features = path, split, dict(features)
    ids = self._query('SELECT DISTINCT client_id FROM client_metadata WHERE split_name = ?', split)
    self.client_ids = sorted(client_id for (client_id,) in ids)
    if not self.client_ids:
      raise ValueError(f'{path}: expected clients in the split {split!r}, found none.')

  def _query(self, query: str, *arguments: str | int) -> list[tuple]:
    connection = sqlite3.connect(f'file:{self._path}?mode=ro', uri=True)
    try:
      return connection.execute(query, arguments).fetchall()
    except sqlite3.Error as e:
      raise ValueError(f"{self._path}: expected TFF's SQLite format, found: {e}.") from e
    finally:
      connection.close()

  def read(self, client_id: str, limit: int | None = None) -> Features:
    rows = self._query(
      'SELECT serialized_example_proto FROM examples WHERE client_id = ? AND split_name = ? '
      'ORDER BY rowid LIMIT ?',
      client_id,
      self._split,
      -1 if limit is None else limit,
    )
    serialized = np.array([row for (row,) in rows], np.object_)
    parsed = tf.io.parse_example(tf.constant(serialized, tf.string), self._features)
    return {name: values.numpy() for name, values in parsed.items()}

  def num_examples(self) -> int | None:
    query = 'SELECT SUM(num_examples) FROM client_metadata WHERE split_name = ?'
    return self._query(query, self._split)[0][0]


class FileClientData(arrays.ExampleClientData):
  """Client data that reads a client's examples from a file each time it is asked for them."""

  def __init__(
    self,
    file: ClientFile,
    to_examples: Callable[[Features], arrays.Split],
    max_examples: int | None = None,
  ):
    """Creates the client data.

    Args:
      file: Where the clients are.
      to_examples: Features -> examples, which may be more or fewer.
      max_examples: In the file, that are read of each client; the first ones.
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
    """The examples of all clients, or those of `max_examples` features of random clients."""
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
