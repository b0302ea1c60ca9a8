import gzip
import pickle
import struct
import subprocess
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest

from tests.datasets import tff_format
from tff_lowrank import files
from tff_lowrank.datasets import cifar

BINARY = cifar.VERSIONS['cifar10'][0]


@pytest.fixture
def folder(tmp_path, rng):
  """A tiny data set in the original format: two images a file."""
  for name in BINARY.files:
    records = rng.integers(0, 256, (2, 3073)).astype(np.uint8)
    records[:, 0] %= 10
    (tmp_path / name).write_bytes(records.tobytes())
  return tmp_path


def test_reads_the_original_format(folder):
  train, test = cifar.load_arrays(str(folder))
  assert train.x.shape == (10, 32, 32, 3) and train.x.dtype == np.uint8
  assert test.x.shape == (2, 32, 32, 3) and test.y.dtype == np.int32
  # Image 3 is the second of data_batch_2: byte 0 the label, then the planes row by row.
  record = np.frombuffer((folder / 'data_batch_2.bin').read_bytes(), np.uint8)[3073:]
  assert train.y[3] == record[0]
  for row, column, channel in ((0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 1), (31, 30, 2)):
    assert train.x[3, row, column, channel] == record[1 + 1024 * channel + 32 * row + column]


def test_finds_the_folder_and_the_archive(folder, tmp_path):
  expected = cifar.load_arrays(str(folder))
  outer = tmp_path / 'outer'
  outer.mkdir()
  with tarfile.open(outer / BINARY.archive, 'w:gz') as archive:
    for name in BINARY.files:
      archive.add(folder / name, f'{BINARY.folder}/{name}')
  from_archive = cifar.load_arrays(str(outer))
  (outer / BINARY.folder).mkdir()
  for name in BINARY.files:
    (folder / name).rename(outer / BINARY.folder / name)
  for got in (from_archive, cifar.load_arrays(str(outer))):
    for a, b in zip(got, expected, strict=True):
      np.testing.assert_array_equal(a.x, b.x)
      np.testing.assert_array_equal(a.y, b.y)


def test_real_files(shared_data, tmp_path):
  unpack = [sys.executable, str(shared_data / 'unpack.py'), str(tmp_path), 'cifar10']
  subprocess.run(unpack, check=True, capture_output=True)
  train, test = cifar.load_arrays(str(tmp_path))
  assert train.x.shape == (50_000, 32, 32, 3) and test.x.shape == (10_000, 32, 32, 3)
  np.testing.assert_array_equal(np.bincount(train.y), [5000] * 10)
  np.testing.assert_array_equal(np.bincount(test.y), [1000] * 10)
  np.testing.assert_allclose(train.x.mean((0, 1, 2)), cifar.MEAN, atol=0.06)
  np.testing.assert_allclose(train.x.std((0, 1, 2)), cifar.STD, atol=0.06)
  # The first training image is a frog, the first test image a cat.
  assert (train.y[0], test.y[0]) == (6, 3)


def test_missing_files_are_named_with_their_source(folder, tmp_path):
  (folder / 'data_batch_3.bin').unlink()
  (folder / 'test_batch.bin').unlink()
  with pytest.raises(FileNotFoundError, match=r'lacks data_batch_3.bin, test_batch.bin\. Download'):
    cifar.load_arrays(str(folder))
  with pytest.raises(FileNotFoundError, match='cs.toronto.edu.*--data_dir'):
    cifar.load_arrays()
  with pytest.raises(FileNotFoundError, match='lacks data_batch_1.bin'):
    cifar.load_arrays(str(tmp_path / 'nowhere'))


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda data: data[:-1], 'expected whole records of 3073 bytes, found 6145 bytes'),
    (lambda data: b'', 'found 0 bytes'),
    (lambda data: b'\x0a' + data[1:], 'expected labels 0 to 9, found 10'),
  ],
)
def test_damaged_files_are_refused(folder, damage, message):
  path = folder / 'data_batch_4.bin'
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(ValueError, match=f'data_batch_4.bin: .*{message}'):
    cifar.load_arrays(str(folder))


def test_damaged_archive_is_refused(tmp_path):
  (tmp_path / BINARY.archive).write_bytes(b'no archive')
  with pytest.raises(ValueError, match='expected a complete tar archive'):
    cifar.load_arrays(str(tmp_path))


def records(rng, num_examples):
  """Planes, coarse and fine labels of CIFAR-100."""
  planes = rng.integers(0, 256, (num_examples, 3072)).astype(np.uint8)
  return planes, rng.integers(0, 20, num_examples), rng.integers(0, 100, num_examples)


@pytest.fixture(params=['binary', 'python'])
def folder100(request, tmp_path, rng):
  """CIFAR-100, tiny, in one of its versions; and what is in it."""
  version = cifar.VERSIONS['cifar100'][request.param == 'python']
  (tmp_path / version.folder).mkdir()
  content = {}
  for file, n in zip(version.files, (5, 3), strict=True):
    planes, coarse, fine = records(rng, n)
    content[file.removesuffix('.bin')] = planes, fine
    if request.param == 'binary':
      data = np.column_stack([coarse, fine, planes]).astype(np.uint8).tobytes()
    else:
      labels = {b'coarse_labels': coarse.tolist(), b'fine_labels': fine.tolist()}
      data = pickle.dumps({b'data': planes, **labels}, protocol=2)
    (tmp_path / version.folder / file).write_bytes(data)
  return tmp_path, content


def test_cifar100(folder100):
  folder, content = folder100
  data = cifar.load_arrays(str(folder), 'cifar100')
  for split, (planes, fine) in zip(data, (content['train'], content['test']), strict=True):
    np.testing.assert_array_equal(split.y, fine)
    np.testing.assert_array_equal(split.x[:, 3, 7, 2], planes[:, 2048 + 3 * 32 + 7])
    assert split.x.shape == (len(fine), 32, 32, 3)
  with pytest.raises(FileNotFoundError, match='lacks data_batch_1.bin.*cifar-10-binary.tar.gz'):
    cifar.load_arrays(str(folder), 'cifar10')


def test_python_version_of_cifar10(tmp_path, rng):
  version = cifar.VERSIONS['cifar10'][1]
  planes = rng.integers(0, 256, (2, 3072)).astype(np.uint8)
  for i, file in enumerate(version.files):
    data = {b'data': planes, b'labels': [i, 9]}
    (tmp_path / file).write_bytes(pickle.dumps(data, protocol=2))
  train, test = cifar.load_arrays(str(tmp_path))
  assert train.y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and test.y.tolist() == [5, 9]


class Runs:
  def __reduce__(self):
    return print, ('a pickle ran code',)


@pytest.mark.parametrize(
  'content, message',
  [
    ({b'data': np.zeros([2, 3072], np.uint8), b'labels': Runs()}, 'builtins.print'),
    ({b'data': np.zeros([2, 3072], np.uint8)}, "KeyError.b'labels'"),
    ({b'data': np.zeros([2, 5], np.uint8), b'labels': [1, 2]}, r'expected bytes \[n, 3072\]'),
    ({b'data': np.zeros([2, 3072]), b'labels': [1, 2]}, 'that is not of bytes'),
    ({b'data': np.zeros([2, 3072], np.uint8), b'labels': [1, 10]}, 'labels 0 to 9, found 10'),
  ],
)
def test_other_pickles_are_refused(content, message, capsys):
  with pytest.raises(ValueError, match=f'batch: .*{message}'):
    cifar.parse_pickle(pickle.dumps(content, protocol=3), 'batch', b'labels', 10)
  assert not capsys.readouterr().out


def test_clients_by_pachinko_allocation(tmp_path, rng):
  def client(n):
    return {
      'image': rng.integers(0, 256, (n, 32, 32, 3)).astype(np.uint8),
      'label': rng.integers(0, 100, n),
      'coarse_label': rng.integers(0, 20, n),
    }

  splits = dict(train={'0': client(4), '17': client(2)}, test={'5': client(3)})
  tff_format.write_sqlite(tmp_path / 'cifar100.sqlite', splits)
  train, test = cifar.load_pachinko(str(tmp_path))
  assert train.client_ids == ['0', '17'] and len(test.y) == 3
  examples = train.examples('17')
  np.testing.assert_array_equal(examples.x, splits['train']['17']['image'])
  np.testing.assert_array_equal(examples.y, splits['train']['17']['label'])
  assert examples.x.dtype == np.uint8 and examples.y.dtype == np.int32


@pytest.mark.parametrize('image, label, found', [
  (300, 1, 'image: expected integers from 0 to 255, found 300'),
  (-1, 1, 'image: expected integers from 0 to 255, found -1'),
  (0.5, 1, 'as /examples/a/image, found float64'),
  (7, 100, 'label: expected integers from 0 to 99, found 100'),
  (7, 2**32, 'label: expected integers from 0 to 99, found 4294967296'),
])  # fmt: skip
def test_numbers_of_clients_that_do_not_fit_are_refused(tmp_path, image, label, found):
  good = {'image': np.zeros([1, 32, 32, 3], np.int64), 'label': np.int64([5])}
  bad = {'image': np.full([1, 32, 32, 3], image), 'label': np.int64([label])}
  for part, clients in (('train', {'a': bad}), ('test', {'a': good})):
    tff_format.write_hdf5(tmp_path / f'fed_cifar100_{part}.h5', clients)
  train, _ = cifar.load_pachinko(str(tmp_path))
  with pytest.raises(ValueError, match=found):
    train.examples('a')


def as_python_2_wrote(protocol, planes, labels):
  """A batch as Python 2 pickled it: text is bytes."""
  shape, raw = planes.shape, planes.tobytes()
  if protocol == 0:
    numbers = ''.join(f'I{y}\na' for y in labels)
    return (
      f"(dp0\nS'data'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
      f"(I1\n(I{shape[0]}\nI{shape[1]}\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\n"
      f"I0\ntbI00\nS{repr(raw)[1:]}\ntbsS'labels'\n(l{numbers}s."
    ).encode()
  return (
    b'\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
    + b'(K\x01K' + bytes([shape[0]]) + b'M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R'
    + b'(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89'
    + b'T' + struct.pack('<I', len(raw)) + raw + b'tb'
    + b'U\x06labels](' + b''.join(b'K' + bytes([y]) for y in labels) + b'eu.'
  )  # fmt: skip


@pytest.mark.parametrize('protocol', [0, 1, 2, 3, 4])
def test_pickles_of_all_protocols(rng, protocol):
  planes, y = rng.integers(0, 256, (3, 3072)).astype(np.uint8), [3, 0, 9]
  for content in (planes, np.asfortranarray(planes)):
    written = [pickle.dumps({b'data': content, b'labels': y}, protocol)]
    if protocol in (0, 2):
      written.append(as_python_2_wrote(protocol, planes, y))
    for data in written:
      read = cifar.parse_pickle(data, 'batch', b'labels', 10)
      assert read.y.tolist() == y
      np.testing.assert_array_equal(read.x.transpose(0, 3, 1, 2).reshape(3, -1), planes)


def as_numpy_2_wrote(data):
  """A small pickle with NumPy 2's names, and so without the length of a frame."""
  if data[2:3] == pickle.FRAME:
    data = data[:2] + data[11:]
  for name in (b'numpy.core.multiarray', b'numpy.core.numeric'):
    renamed = name.replace(b'core', b'_core')
    data = data.replace(bytes([len(name)]) + name, bytes([len(renamed)]) + renamed)
    data = data.replace(b'c' + name, b'c' + renamed)
  return data


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('kind', [str, str.encode])
@pytest.mark.parametrize('rewrite', [bytes, as_numpy_2_wrote])
def test_batches_that_python_3_wrote(rng, protocol, kind, rewrite):
  planes, y = rng.integers(0, 256, (3, 3072)).astype(np.uint8), [3, 0, 9]
  names = [kind(f'{i}.png') for i in range(100)] + [kind('')]
  for data, labels in (
    (planes, y),
    (np.asfortranarray(planes), np.uint8(y)),
    (np.repeat(planes, 2, 0)[::2], y),
  ):
    content = {kind('data'): data, kind('labels'): labels, kind('filenames'): names}
    read = cifar.parse_pickle(rewrite(pickle.dumps(content, protocol)), 'batch', b'labels', 10)
    assert read.y.tolist() == y
    np.testing.assert_array_equal(read.x.transpose(0, 3, 1, 2).reshape(3, -1), planes)


class Typed:
  """A type of Python's objects that says that it is one of plain bytes."""

  def __reduce__(self):
    return np.dtype, ('O8', False, True), (3, '|', None, None, None, -1, -1, 0)


class Crafted:
  """An array of `dtype` whose content is the bytes `raw`."""

  def __init__(self, shape, dtype, raw):
    self.state = 1, shape, dtype, False, raw

  def __reduce__(self):
    return np.core.multiarray._reconstruct, (np.ndarray, (0,), b'b'), self.state


def test_bytes_of_a_pickle_are_never_pointers():
  planes = np.zeros([1, 3072], np.uint8)
  pointers = Crafted((2,), Typed(), b'A' * 16)
  for content in (
    {b'data': planes, b'labels': [pointers]},
    {b'data': pointers, b'labels': [1]},
    {b'data': Crafted((1, 3072), Typed(), bytes(8 * 3072)), b'labels': [1]},
    {b'data': Crafted((1, 1 << 40), np.dtype('u1'), b''), b'labels': [1]},
    {b'data': planes, b'labels': [1 << 70]},
  ):
    with pytest.raises(files.FileError, match='batch: expected a pickle of images and labels'):
      cifar.parse_pickle(pickle.dumps(content, protocol=2), 'batch', b'labels', 10)


@pytest.mark.parametrize(
  'data',
  [
    b'\x80\x02})' + b'\x85' * 3_000_000 + b'Ns.',  # A key nested so deeply that its hash crashes.
    b'\x80\x02})' + b'2\x86' * 60 + b'Ns.',  # One whose hash takes 2 ** 60 steps.
    b'\x80\x02})' + b''.join(b'q%ch%c\x86' % (i, i) for i in range(60)) + b'Ns.',
    b'\x80\x02})' + b''.join(b'X\0\0\0\0q%c\x86' % i for i in range(60)) + b'Ns.',
    # The same text is encoded again and again.
    b'\x80\x02]c_codecs\nencode\nq\0X\0\0\1\0'
    + b'x' * (1 << 16)
    + b'X\6\0\0\0latin1\x86q\1R'
    + b'h\0h\1R' * 100
    + b'.',
  ],
)
def test_pickles_build_little(data):
  with pytest.raises(files.FileError, match='batch: expected a pickle of images and labels'):
    cifar.parse_pickle(data, 'batch', b'labels', 10)


def test_a_pickle_asks_for_no_more_memory_than_it_has():
  place = struct.pack('<I', 1 << 27)  # Of an object among those that can be referred to.
  size = struct.pack('<Q', 1 << 27)
  tracemalloc.start()
  for data in (b'\x80\x02]r' + place + b'.', b'\x80\x05\x96' + size + b'.'):
    with pytest.raises(files.FileError, match='expected a pickle'):
      cifar.parse_pickle(data, 'batch', b'labels', 10)
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


def test_an_archive_is_read_no_further_than_it_can_hold(tmp_path, monkeypatch):
  monkeypatch.setattr(cifar, '_MAX_ARCHIVE_BYTES', 1 << 20)
  path = tmp_path / BINARY.archive
  # Not the content of a file but its name is long, which tarfile reads as a whole.
  with tarfile.open(path, 'w:gz', format=tarfile.GNU_FORMAT) as archive:
    archive.addfile(tarfile.TarInfo('x' * (1 << 26)))
  tracemalloc.start()
  with pytest.raises(files.FileError, match='found more than 1,048,576 bytes'):
    cifar.load_arrays(str(tmp_path))
  assert tracemalloc.get_traced_memory()[1] < 1 << 23
  tracemalloc.stop()
  large = tarfile.TarInfo('test_batch.bin')
  large.size = 1 << 40
  path.write_bytes(gzip.compress(large.tobuf()))
  with pytest.raises(files.FileError, match='test_batch.bin: expected at most 160,000,000 bytes'):
    cifar.load_arrays(str(tmp_path))
