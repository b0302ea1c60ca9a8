import os
import sqlite3
import tracemalloc

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.datasets import tff_format
from tff_lowrank import files
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files

SPEC = {
  'value': tf.io.FixedLenFeature((2,), tf.float32),
  'label': tf.io.FixedLenFeature((), tf.int64),
  'text': tf.io.FixedLenFeature((), tf.string),
}

# The second id would break a query that is pasted together.
CLIENTS = {"b'; --": 3, 'a': 5, 'c': 1}


@pytest.fixture
def clients(rng):
  return {
    client: {
      'value': rng.normal(size=(count, 2)).astype(np.float32),
      'label': rng.integers(0, 9, count),
      'text': np.array([f'{client}{i} é'.encode() for i in range(count)], np.object_),
    }
    for client, count in CLIENTS.items()
  }


@pytest.fixture(params=['sqlite', 'hdf5', 'memory'])
def file(request, tmp_path, clients):
  if request.param == 'sqlite':
    other = {'a': {k: v[:1] for k, v in clients['a'].items()}}
    tff_format.write_sqlite(tmp_path / 'f.sqlite', {'test': other, 'train': clients})
    return client_files.SqliteFile(tmp_path / 'f.sqlite', 'train', SPEC)
  if request.param == 'hdf5':
    tff_format.write_hdf5(tmp_path / 'f.h5', clients)
    return client_files.Hdf5File(tmp_path / 'f.h5', SPEC)
  return client_files.MemoryFile(clients)


def test_reads_what_was_written(file, clients):
  assert file.client_ids == ['a', "b'; --", 'c']
  for client, features in clients.items():
    read = file.read(client)
    assert set(read) == set(features)
    for name in features:
      np.testing.assert_array_equal(read[name], features[name])
      np.testing.assert_array_equal(file.read(client, 2)[name], features[name][:2])


def to_examples(features):
  return arrays.Split(features['value'], features['label'].astype(np.int32))


def test_client_data(file, clients):
  data = client_files.FileClientData(file, to_examples)
  assert isinstance(data, tff.simulation.datasets.ClientData)
  assert data.client_ids == ['a', "b'; --", 'c'] and data.num_examples('a') == 5
  dataset = data.create_tf_dataset_for_client('a')
  assert dataset.element_spec == data.element_type_structure
  np.testing.assert_array_equal([e['x'] for e in dataset], clients['a']['value'])
  again = data.serializable_dataset_fn(tf.constant('a'))
  assert again.element_spec == dataset.element_spec
  np.testing.assert_array_equal([e['y'] for e in again], clients['a']['label'])
  for client in ('aa', 'd', ''):
    with pytest.raises(ValueError, match=f"no client '{client}' among 3 clients"):
      data.examples(client)


def test_reads_the_first_examples_of_each_client(file, clients):
  data = client_files.FileClientData(file, to_examples, max_examples=2)
  assert [data.num_examples(c) for c in data.client_ids] == [2, 2, 1]
  np.testing.assert_array_equal(data.examples('a').x, clients['a']['value'][:2])


def test_parts_of_each_client(file):
  data = client_files.FileClientData(file, to_examples)
  train, test = data.held_out(0.4, seed=1)
  assert train.client_ids == test.client_ids == data.client_ids
  assert [test.num_examples(c) for c in test.client_ids] == [2, 1, 0]
  for client in data.client_ids:
    both = np.concatenate([train.examples(client).x, test.examples(client).x])
    np.testing.assert_array_equal(np.sort(both, 0), np.sort(data.examples(client).x, 0))
  # The same examples as of arrays in memory.
  in_memory = arrays.ArrayClientData(data.examples('a'), {'a': np.arange(5)})
  np.testing.assert_array_equal(
    in_memory.held_out(0.4, seed=1)[1].examples('a').x, test.examples('a').x
  )


def test_pooled_examples(file, clients):
  data = client_files.FileClientData(file, to_examples)
  everything = data.pooled()
  expected = np.concatenate([clients[c]['value'] for c in data.client_ids])
  np.testing.assert_array_equal(everything.x, expected)
  some = data.pooled(6, seed=2)
  assert len(some.y) == 6 and len(np.unique(some.x, axis=0)) == 6
  np.testing.assert_array_equal(some.x, data.pooled(6, seed=2).x)
  assert any(not np.array_equal(some.x, data.pooled(6, seed=s).x) for s in (3, 4, 5))
  np.testing.assert_array_equal(np.sort(data.pooled(100).x, 0), np.sort(expected, 0))


def test_agrees_with_tff_on_its_own_files(tmp_path):
  source = tff.simulation.datasets.emnist.get_synthetic()
  path = tmp_path / 'digits.sqlite'
  tff.simulation.datasets.save_to_sql_client_data(
    source.client_ids, source.create_tf_dataset_for_client, str(path)
  )
  spec = {
    'pixels': tf.io.FixedLenFeature((28, 28), tf.float32),
    'label': tf.io.FixedLenFeature((), tf.int64),
  }
  file = client_files.SqliteFile(path, 'default_split', spec)
  theirs = tff.simulation.datasets.load_and_parse_sql_client_data(
    str(path), source.element_type_structure
  )
  assert file.client_ids == theirs.client_ids
  for client in file.client_ids:
    expected = next(iter(theirs.create_tf_dataset_for_client(client).batch(100)))
    for name, values in file.read(client).items():
      np.testing.assert_array_equal(values, expected[name])


def test_clients_cost_their_ids_only(tmp_path):
  """As many clients as Stack Overflow has."""
  count = 342_477
  (blob,) = tff_format.serialized({'text': np.array([b'word ' * 40], np.object_)})
  with tff_format.open_sqlite(tmp_path / 'many.sqlite') as connection:
    ids = [f'{i:08d}' for i in range(count)]
    connection.executemany(
      'INSERT INTO examples VALUES (?, ?, ?)', (('train', i, blob) for i in ids)
    )
    connection.executemany(
      'INSERT INTO client_metadata VALUES (?, ?, ?)', ((i, 'train', 1) for i in ids)
    )
    connection.execute('CREATE INDEX by_client ON examples (split_name, client_id)')
  connection.close()
  spec = {'text': tf.io.FixedLenFeature((), tf.string)}
  tracemalloc.start()
  file = client_files.SqliteFile(tmp_path / 'many.sqlite', 'train', spec)
  data = client_files.FileClientData(
    file, lambda features: arrays.Split(features['text'], np.zeros(1, np.int32))
  )
  for i in range(0, count, 50_000):
    assert data.examples(ids[i]).x.tolist() == [b'word ' * 40]
  held, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert len(data.client_ids) == count
  # A text of 8 letters is 57 bytes, a pointer 8; rows of a query are held while ids are sorted.
  assert held < 80 * count and peak < 200 * count


def test_other_files_are_refused(tmp_path):
  path = tmp_path / 'other'
  path.write_bytes(b'something else' * 100)
  with pytest.raises(
    ValueError, match="other: expected TFF's SQLite format, found DatabaseError: file is not"
  ):
    client_files.SqliteFile(path, 'train', SPEC)
  with pytest.raises(ValueError, match='other: expected HDF5 with a group `examples`'):
    client_files.Hdf5File(path, SPEC)
  tff_format.write_sqlite(tmp_path / 'f.sqlite', {})
  with pytest.raises(ValueError, match="expected clients in the split 'train', found none"):
    client_files.SqliteFile(tmp_path / 'f.sqlite', 'train', SPEC)


def test_some_clients(file, clients):
  data = client_files.FileClientData(file, to_examples)
  some = data.only(['c', 'a'])
  assert some.client_ids == ['a', 'c'] and some.num_examples('a') == 5
  with pytest.raises(ValueError, match='no client "b\'; --" among 2 clients'):
    some.examples("b'; --")
  assert len(data.sample(2, seed=1).client_ids) == 2


@pytest.mark.parametrize(
  'name', ['a?mode=rwc', 'a#b', 'a%41%00', '~', ' a b ', 'a\nb', 'é', b'\xff']
)
def test_files_of_any_name(tmp_path, clients, name):
  folder = tmp_path / os.fsdecode(name)
  folder.mkdir()
  tff_format.write_sqlite(folder / 'f.sqlite', {'train': clients})
  tff_format.write_hdf5(folder / 'f.h5', clients)
  for file in (
    client_files.SqliteFile(folder / 'f.sqlite', 'train', SPEC),
    client_files.Hdf5File(folder / 'f.h5', SPEC),
  ):
    assert file.read('c')['text'].tolist() == ['c0 é'.encode()]
  assert sorted(p.name for p in folder.iterdir()) == ['f.h5', 'f.sqlite']
  assert [*tmp_path.iterdir()] == [folder]


SQL = [
  ("UPDATE examples SET serialized_example_proto = x'ff'", 'found others'),
  ("UPDATE examples SET serialized_example_proto = x''", 'found others'),
  ('UPDATE examples SET serialized_example_proto = 7', 'int in a column of bytes'),
  ("UPDATE examples SET serialized_example_proto = 'text'", 'str in a column of bytes'),
  ("UPDATE client_metadata SET client_id = x'00'", 'bytes in a column of str'),
  ("UPDATE client_metadata SET client_id = CAST(x'ff' AS TEXT)", 'Could not decode to UTF-8'),
  ('DROP TABLE client_metadata', 'no such table: client_metadata'),
  ('ALTER TABLE examples DROP COLUMN client_id', 'no such column: client_id'),
  (
    'DROP TABLE client_metadata; CREATE VIEW client_metadata AS WITH RECURSIVE r(i) AS '
    "(SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT 'c' AS client_id, 'train' AS split_name "
    'FROM r WHERE i < 0',
    'OperationalError: interrupted',
  ),
  (
    'DROP TABLE client_metadata; CREATE VIEW client_metadata AS WITH RECURSIVE r(i) AS '
    "(SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT 'c' || i AS client_id, 'train' AS split_name "
    'FROM r',
    'more data than the file can have',
  ),
]


@pytest.mark.parametrize('change, found', SQL, ids=range(len(SQL)))
def test_other_content_of_a_database_is_refused(tmp_path, clients, change, found):
  path = tmp_path / 'f.sqlite'
  tff_format.write_sqlite(path, {'train': clients})
  with sqlite3.connect(path) as connection:
    connection.executescript(change)
  connection.close()
  with pytest.raises(files.FileError, match=f'f.sqlite: expected .*{found}'):
    client_files.SqliteFile(path, 'train', SPEC).read('a')


def outside(file):
  with h5py.File(f'{file.filename}.other', 'w') as other:
    other['secret'] = [1, 2, 3, 4, 5]
  del file['examples/a/label']
  file['examples/a/label'] = h5py.ExternalLink(f'{file.filename}.other', 'secret')


def external(file):
  del file['examples/a/label']
  layout = [('/dev/zero', 0, h5py.h5f.UNLIMITED)]
  file.create_dataset('examples/a/label', (5,), np.int64, external=layout)


def virtual(file):
  layout = h5py.VirtualLayout((5,), np.int64)
  layout[:] = h5py.VirtualSource('other.h5', 'secret', (5,))
  del file['examples/a/label']
  file.create_virtual_dataset('examples/a/label', layout)


def put(name, values, **more):
  def change(file):
    if name in file:
      del file[name]
    if values is not None:
      file.create_dataset(name, data=values, **more)

  return change


def reserve(shape, **more):
  def change(file):
    del file['examples/a/label']
    file.create_dataset('examples/a/label', shape, np.int64, **more)

  return change


HDF5 = [
  (put('examples', None), "a group 'examples' in /, found none"),
  (put('examples', [1]), "a group 'examples' in /, found something else"),
  (put('examples/a', [1]), "a group 'a' in /examples, found something else"),
  (put('examples/a/label', None), "a dataset 'label' in /examples/a, found none"),
  (put('examples/a/label', [0.5] * 5), r"int64 of shape \['n'\] as .*, found float64 of shape \[5"),
  (put('examples/a/label', [b'x'] * 5), r"int64 of shape \['n'\] .*, found object"),
  (put('examples/a/label', 3), r'found int64 of shape \[\]'),
  (put('examples/a/label', [1, 2]), "each feature of the client 'a', found value 5, label 2"),
  (put('examples/a/text', [1] * 5), r"string of shape \['n'\] as .*, found int64"),
  (put('examples/a/value', np.zeros([5, 3])), r"float32 of shape \['n', 2\] .* \[5, 3\]"),
  (reserve((1 << 40,)), 'at most 67,108,864 bytes of /examples/a/label, found 8,796,093,022,208'),
  (reserve((5,), chunks=(1 << 28,), maxshape=(None,)), 'at most 67,108,864 bytes'),
  (outside, "a dataset 'label' in /examples/a, found none"),
  (external, 'found that it is in other files'),
  (virtual, 'found that it is in other files'),
]


@pytest.mark.parametrize('change, message', HDF5, ids=range(len(HDF5)))
def test_other_content_of_hdf5_is_refused(tmp_path, clients, change, message):
  path = tmp_path / 'f.h5'
  tff_format.write_hdf5(path, clients)
  with h5py.File(path, 'r+') as file:
    change(file)
  with pytest.raises(files.FileError, match=f'f.h5: expected .*{message}'):
    client_files.Hdf5File(path, SPEC).read('a')


def test_hdf5_without_clients(tmp_path):
  with h5py.File(tmp_path / 'f.h5', 'w') as file:
    file.create_group('examples')
  with pytest.raises(files.FileError, match='expected clients in the group `examples`, found none'):
    client_files.Hdf5File(tmp_path / 'f.h5', SPEC)
