"""Writes files in the formats in which TFF distributes clients."""

import sqlite3

import h5py
import numpy as np
import tensorflow as tf


def _feature(value):
  value = np.asarray(value)
  if value.dtype.kind in 'OS':
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.item()]))
  if value.dtype.kind == 'f':
    return tf.train.Feature(float_list=tf.train.FloatList(value=value.ravel()))
  return tf.train.Feature(int64_list=tf.train.Int64List(value=value.ravel()))


def serialized(features):
  """Each example of one client as the bytes of a tf.train.Example."""
  count = len(next(iter(features.values())))
  return [
    tf.train.Example(
      features=tf.train.Features(feature={k: _feature(v[i]) for k, v in features.items()})
    ).SerializeToString()
    for i in range(count)
  ]


def open_sqlite(path):
  """A connection to a new file with TFF's tables."""
  connection = sqlite3.connect(path)
  connection.execute(
    'CREATE TABLE examples (split_name TEXT NOT NULL, client_id TEXT NOT NULL, '
    'serialized_example_proto BLOB NOT NULL)'
  )
  connection.execute(
    'CREATE TABLE client_metadata (client_id TEXT NOT NULL, split_name TEXT NOT NULL, '
    'num_examples INTEGER NOT NULL)'
  )
  return connection


def write_sqlite(path, splits):
  """`splits`: split -> client -> feature -> array [num_examples, ...]."""
  with open_sqlite(path) as connection:
    for split, clients in splits.items():
      for client, features in clients.items():
        rows = [(split, client, example) for example in serialized(features)]
        connection.executemany('INSERT INTO examples VALUES (?, ?, ?)', rows)
        connection.execute('INSERT INTO client_metadata VALUES (?, ?, ?)',
                           (client, split, len(rows)))  # fmt: skip
  connection.close()


def write_hdf5(path, clients):
  """`clients`: client -> feature -> array [num_examples, ...]."""
  with h5py.File(path, 'w') as file:
    for client, features in clients.items():
      for name, values in features.items():
        file[f'examples/{client}/{name}'] = np.array(values)
