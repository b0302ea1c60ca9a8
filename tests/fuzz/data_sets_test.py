"""Files of data sets, of all formats, damaged in all ways: right data, or one sentence."""

from collections.abc import Callable
import contextlib
import gzip
import io
import json
import os
import pathlib
import pickle
import socket
import sqlite3
import tarfile
from typing import NamedTuple
import zipfile

import h5py
import numpy as np
import pytest

from tests.cli import binaries
from tests.datasets import tff_format
from tests.fuzz import fuzzing
from tff_lowrank import files
from tff_lowrank.cli import entry
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import keywords
from tff_lowrank.datasets import mnist
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import qmnist
from tff_lowrank.datasets import shakespeare
from tff_lowrank.datasets import stackexchange
from tff_lowrank.datasets import stackoverflow

RNG = np.random.default_rng(0)


def idx(array, code=8):
  header = bytes([0, 0, code, array.ndim]) + np.array(array.shape, '>u4').tobytes()
  return gzip.compress(header + array.tobytes(), mtime=0)


LABELS = np.arange(40, dtype=np.uint8) % 10
PIXELS = RNG.integers(0, 256, (40, 28, 28)).astype(np.uint8)
MNIST = {name: idx(PIXELS if 'images' in name else LABELS) for name in mnist.FILES}
WRITERS = np.zeros([40, 8], '>i4')
WRITERS[:, 0], WRITERS[:, 2] = LABELS, np.arange(40) // 20

BINARY, PYTHON = cifar.VERSIONS['cifar10']
RECORDS = RNG.integers(0, 256, (4, 3073)).astype(np.uint8)
RECORDS[:, 0] %= 10
PICKLED = {b'data': RECORDS[:, 1:], b'labels': RECORDS[:, 0].tolist(), b'filenames': [b'a.png'] * 4}


def tar(mode, **members):
  written = io.BytesIO()
  with tarfile.open(fileobj=written, mode=mode) as archive:
    for name, content in members.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))
  return written.getvalue()


def npz():
  stream = io.BytesIO()
  x, y = RNG.random((40, 5, 4)).astype(np.float32), np.arange(40) % 2
  np.savez(stream, x=x, y=y, speaker=np.repeat(['ann', 'bob'], 20))
  return stream.getvalue()


def snippets(count):
  return {f'ROLE_{i}': {'snippets': [b'To be, or not to be'] * 3} for i in range(count)}


def post(count):
  texts = np.array([b'is it a cup of tea ?'] * count, np.object_)
  return {'tokens': texts, 'title': texts, 'tags': np.array([b'tea|cup'] * count, np.object_)}


def as_sqlite(splits):
  def write(path):
    path.unlink(missing_ok=True)
    tff_format.write_sqlite(path, splits)

  return write


def as_hdf5(clients):
  return lambda path: tff_format.write_hdf5(path, clients)


ITEM = {'k': 'q', 't': 'A cup of tea. Is it?', 'title': 'How?', 'tags': ['tea']}
USERS = {f'site/{u}': [ITEM | {'d': str(2000 + u + d)} for d in range(9)] for u in range(3)}
JSON = {stackexchange.FILE: json.dumps(USERS).encode()}
POSTS = {f'{user:08d}': post(3) for user in range(4)}
COUNTS = {
  stackoverflow.WORD_COUNTS: b'it 9\nis 8\ncup 3\ntea 1\n',
  stackoverflow.TAG_COUNTS: json.dumps({'tea': 2, 'cup': 9}).encode(),
}
STACKOVERFLOW = COUNTS | {'stackoverflow.sqlite': as_sqlite(dict(train=POSTS, test=POSTS))}


def clients(load):
  """The examples of all clients and the test examples, where `load` gives these."""

  def read(folder):
    train, test = load(folder)
    if isinstance(train, arrays.Split):
      return [*train, *test]
    return [array for c in train.client_ids for array in train.examples(c)] + [*test]

  return read


def load_keywords(folder):
  data = keywords.load_data(folder)
  return data.by_speaker(), data.test


def load_stackexchange(folder):
  users = stackexchange.load_users(folder)
  return stackexchange.load_data(users, posts.NextWord(users.vocabulary))


def load_stackoverflow(folder):
  words, tags = stackoverflow.load_vocabulary(folder), stackoverflow.load_tags(folder)
  return stackoverflow.load_data(folder, posts.Tags(words, tags))


class Format(NamedTuple):
  """One file to damage among those of a data set.

  content: name -> bytes, or a function that writes a file. read: a folder -> arrays.
  has_checksum: whether data that are read are those that were written.
  """

  file: str
  content: dict[str, bytes | Callable[[pathlib.Path], None]]
  read: Callable[[str], list[np.ndarray]]
  has_checksum: bool = False


def load_mnist(folder):
  return mnist.load_arrays('mnist', folder)


FORMATS = {
  'idx images': Format(mnist.FILES[0], MNIST, clients(load_mnist), True),
  'idx labels': Format(mnist.FILES[3], MNIST, clients(load_mnist), True),
  'idx integers': Format(
    qmnist.LABELS, MNIST | {qmnist.LABELS: idx(WRITERS, 12)}, clients(qmnist.load_data), True
  ),
  'records': Format(
    BINARY.files[2], dict.fromkeys(BINARY.files, RECORDS.tobytes()), clients(cifar.load_arrays)
  ),
  'pickle': Format(
    PYTHON.files[5],
    dict.fromkeys(PYTHON.files, pickle.dumps(PICKLED, protocol=2)),
    clients(cifar.load_arrays),
  ),
  'tar': Format(
    BINARY.archive,
    {BINARY.archive: gzip.compress(tar('w', **dict.fromkeys(BINARY.files, RECORDS.tobytes())))},
    clients(cifar.load_arrays),
    True,
  ),
  'npz': Format(keywords.FILE, {keywords.FILE: npz()}, clients(load_keywords), True),
  'sqlite': Format(
    'shakespeare.sqlite',
    {'shakespeare.sqlite': as_sqlite(dict(train=snippets(3), test=snippets(2)))},
    clients(shakespeare.load_data),
  ),
  'hdf5': Format(
    'shakespeare_train.h5',
    {f'shakespeare_{part}.h5': as_hdf5(snippets(3)) for part in ('train', 'test')},
    clients(shakespeare.load_data),
  ),
  'json': Format(stackexchange.FILE, JSON, clients(load_stackexchange)),
  'json counts': Format(stackoverflow.TAG_COUNTS, STACKOVERFLOW, clients(load_stackoverflow)),
  'text counts': Format(stackoverflow.WORD_COUNTS, STACKOVERFLOW, clients(load_stackoverflow)),
}  # fmt: skip


def write(folder, content):
  for name, data in content.items():
    if callable(data):
      data(folder / name)
    else:
      (folder / name).write_bytes(data)


def database():
  connection = sqlite3.connect(':memory:')
  connection.execute('CREATE TABLE other (x)')
  return connection.serialize()


class Runs:
  def __reduce__(self):
    return os.system, ('touch ran',)


def zipped():
  stream = io.BytesIO()
  with zipfile.ZipFile(stream, 'w') as archive:
    archive.writestr('../x.npy', b'x')
  return stream.getvalue()


# What is no file of any data set, under the name of one.
OTHERS = {
  'empty': b'',
  'a page': b'<html><body>404 Not Found</body></html>',
  'zeros': bytes(5000),
  'noise': np.random.default_rng(1).bytes(5000),
  'gzip': gzip.compress(b'x' * 5000),
  'zip': zipped(),
  'tar': tar('w', x=b'x'),
  'compressed tar': tar('w:gz', x=b'x'),
  'pickle of a program': pickle.dumps(Runs()),
  'SQLite': database(),
  'npy': b'\x93NUMPY\x01\x00v\x00' + b'x' * 118,
  'nested JSON': b'[' * 100_000,
  'JSON': b'{"a": [{"k": 1}]}',
  'lone surrogate': b'{"\\ud800": 3}',
}

CUTS = (0.03, 0.15, 0.3, 0.45, 0.6, 0.77, 0.93)


def cut(data):
  return {f'cut at {share}': data[: int(share * len(data))] for share in CUTS} | {
    'without its last byte': data[:-1]
  }


def flipped(data):
  places = np.linspace(0, len(data) - 1, 9).astype(int)
  found = {f'bit at {i}': data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :] for i in places}
  return found | {f'zeros at {i}': data[:i] + bytes(40) + data[i + 40 :] for i in places}


def is_refused(folder, form, whole=None):
  """Reads a data set: whether it is refused in one sentence; otherwise it must be right."""
  try:
    found = form.read(str(folder))
  except files.FileError as e:
    assert str(folder) in str(e) and len(str(e).splitlines()) == 1 and len(str(e)) < 700
    return True
  assert all(len(array) for array in found)
  if whole is not None and form.has_checksum:
    for array, expected in zip(found, whole, strict=True):
      np.testing.assert_array_equal(array, expected)
  return False


@pytest.mark.parametrize('name', FORMATS)
def test_damaged_files_are_refused_or_right(name, tmp_path):
  form = FORMATS[name]
  write(tmp_path, form.content)
  path = tmp_path / form.file
  data, whole = path.read_bytes(), form.read(str(tmp_path))
  for what, content in (OTHERS | cut(data)).items():
    path.write_bytes(content)
    # Of lines, the first ones are a whole file too.
    assert is_refused(tmp_path, form) or (name == 'text counts' and what in cut(data)), what
  for content in flipped(data).values():
    path.write_bytes(content)
    is_refused(tmp_path, form, whole)


def put_socket(path):
  with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as bound:
    bound.bind(path.name)  # Paths of sockets must be short.


PLACED = {
  'a FIFO': os.mkfifo,
  'a socket': put_socket,
  'a device': lambda path: path.symlink_to('/dev/zero'),
  'a folder': lambda path: path.mkdir(),
}


@pytest.mark.parametrize('found', PLACED)
@pytest.mark.parametrize('name', FORMATS)
def test_only_regular_files_are_read(name, found, tmp_path):
  form = FORMATS[name]
  write(tmp_path, form.content)
  (tmp_path / form.file).unlink()
  PLACED[found](tmp_path / form.file)
  expected = f'{form.file}: expected .*, found {found}'
  if name in ('records', 'pickle') and found == 'a folder':
    expected = f'lacks {form.file}'  # A folder may be called `train`, as CIFAR-100's file.
  with pytest.raises((files.FileError, FileNotFoundError), match=expected):
    form.read(str(tmp_path))


@fuzzing.AMOUNTS
@pytest.mark.parametrize('name', FORMATS)
def test_changed_files_are_refused_or_right(examples, name, tmp_path):
  form = FORMATS[name]
  write(tmp_path, form.content)
  path = tmp_path / form.file
  data, whole = path.read_bytes(), form.read(str(tmp_path))

  def check(content):
    path.write_bytes(content)
    is_refused(tmp_path, form, whole)

  fuzzing.fuzz(examples, fuzzing.damaged(data), check)


def check_binary(capsys, *arguments):
  """Status 2 and one sentence; returns what was printed."""
  capsys.readouterr()
  assert binaries.status(*arguments) == entry.USAGE
  said = capsys.readouterr()
  sentence, hint = said.err.strip().splitlines()
  assert hint == 'Pass --debug for the traceback.'
  return sentence + said.out


@pytest.mark.parametrize('name', FORMATS)
def test_check_says_what_is_damaged(name, tmp_path, capsys):
  form = FORMATS[name]
  write(tmp_path, form.content)
  path = tmp_path / form.file
  data = path.read_bytes()
  arguments = ['datasets', '--check', f'--data_dir={tmp_path}', f'--output_dir={tmp_path / "out"}']
  assert binaries.status(*arguments) == 0
  damages = OTHERS | ({} if name == 'text counts' else cut(data))
  for content in damages.values():
    path.write_bytes(content)
    said = check_binary(capsys, *arguments)
    assert 'DAMAGED: ' in said and form.file in said
  for found in ('a FIFO', 'a socket', 'a device'):
    path.unlink()
    PLACED[found](path)
    assert f'found {found}' in check_binary(capsys, *arguments)


@pytest.mark.parametrize('name', ['idx labels', 'pickle', 'tar', 'npz', 'json'])
def test_training_says_what_is_damaged(name, tmp_path, capsys):
  form = FORMATS[name]
  write(tmp_path, form.content)
  path = tmp_path / form.file
  data = path.read_bytes()
  task = {
    'idx labels': ['--task=mnist'],
    'npz': ['--task=keywords'],
    'json': ['--task=stackexchange_nwp', '--partition=natural'],
  }.get(name, ['--task=cifar10'])
  arguments = ['train', *task, f'--data_dir={tmp_path}', '--clients_per_round=1']
  for i, content in enumerate((data[: len(data) // 2], OTHERS['noise'], OTHERS['a page'])):
    path.write_bytes(content)
    said = check_binary(capsys, *arguments, f'--output_dir={tmp_path / str(i)}')
    assert form.file in said and ': expected ' in said


def writers(count):
  return {
    f'writer_{i}': {'pixels': np.ones([2, 28, 28], np.float32), 'label': np.arange(2)}
    for i in range(count)
  }


def spoil_row(path):
  with sqlite3.connect(path) as connection:
    connection.execute(
      "UPDATE examples SET serialized_example_proto = x'0a' "
      "WHERE client_id = 'writer_2' AND split_name = 'digits_only_train'"
    )
  connection.close()


def spoil_array(path):
  with h5py.File(path, 'r+') as file:
    del file['examples/writer_2/label']


@pytest.mark.parametrize(
  'file, spoil, found',
  [
    ('emnist_all.sqlite', spoil_row, "expected examples of the client 'writer_2'"),
    ('fed_emnist_digitsonly_train.h5', spoil_array, "'label' in /examples/writer_2, found none"),
  ],
)
def test_a_client_that_is_damaged_ends_training_with_a_sentence(
  tmp_path, capsys, file, spoil, found
):
  for part in ('train', 'test'):
    tff_format.write_hdf5(tmp_path / f'fed_emnist_digitsonly_{part}.h5', writers(3))
  if file == 'emnist_all.sqlite':
    as_sqlite(dict(digits_only_train=writers(3), digits_only_test=writers(3)))(tmp_path / file)
  spoil(tmp_path / file)
  flags = ['--task=emnist_digits', '--partition=natural', '--clients_per_round=3', '--rounds=1']
  folders = [f'--data_dir={tmp_path}', f'--output_dir={tmp_path / "run"}']
  said = check_binary(capsys, 'train', *flags, *folders)
  assert f'{file}: ' in said and found in said
