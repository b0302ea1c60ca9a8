import gzip
import hashlib
import struct
import sys
import tracemalloc

import numpy as np
import pytest

from tff_lowrank import files
from tff_lowrank.datasets import mnist

MD5 = {
  'train-images-idx3-ubyte.gz': 'f68b3c2dcbeaaa9fbdd348bbdeb94873',
  'train-labels-idx1-ubyte.gz': 'd53e105ee54ea40749a09fcbcd1e9432',
  't10k-images-idx3-ubyte.gz': '9fb629c4189551a2d022fa330f9573f3',
  't10k-labels-idx1-ubyte.gz': 'ec29112dd5afa0611ce80d1b7f02629c',
}


def idx(array):
  header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
  return gzip.compress(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def folder(tmp_path, rng):
  """A tiny data set in the original format."""
  for images, labels, n in (
    (mnist.FILES[0], mnist.FILES[1], 20),
    (mnist.FILES[2], mnist.FILES[3], 5),
  ):
    (tmp_path / images).write_bytes(idx(rng.integers(0, 256, (n, 28, 28))))
    (tmp_path / labels).write_bytes(idx(rng.integers(0, 10, n)))
  return tmp_path


def test_reads_the_original_format(folder, rng):
  train, test = mnist.load_arrays('mnist', folder)
  assert train.x.shape == (20, 28, 28, 1) and test.x.shape == (5, 28, 28, 1)
  again = np.random.default_rng(0)
  np.testing.assert_array_equal(train.x[..., 0], again.integers(0, 256, (20, 28, 28)))
  np.testing.assert_array_equal(train.y, again.integers(0, 10, 20))


def test_finds_a_folder_of_its_name(folder):
  inside = folder / 'fashion_mnist'
  inside.mkdir()
  for name in mnist.FILES:
    (folder / name).rename(inside / name)
  assert len(mnist.load_arrays('fashion_mnist', folder).train.y) == 20


def test_real_files(shared_data):
  for name in ('mnist', 'fashion_mnist'):
    train, test = mnist.load_arrays(name, shared_data)
    assert train.x.shape == (60000, 28, 28, 1) and test.x.shape == (10000, 28, 28, 1)
    np.testing.assert_array_equal(np.unique(train.y), np.arange(10))
  # The source named in the docstring is that of the files with these checksums.
  for file, md5 in MD5.items():
    assert hashlib.md5((shared_data / 'mnist' / file).read_bytes()).hexdigest() == md5


def test_missing_files_are_named_with_their_source(folder):
  (folder / mnist.FILES[1]).unlink()
  with pytest.raises(FileNotFoundError, match=f'lacks {mnist.FILES[1]}.*ossci-datasets'):
    mnist.load_arrays('mnist', folder)
  with pytest.raises(FileNotFoundError, match='lacks train-images.*fashion-mnist'):
    mnist.load_arrays('fashion_mnist', folder / 'nowhere')


def test_without_a_folder_or_a_network_it_says_what_to_do(monkeypatch):
  def fail(name):
    raise ConnectionError

  monkeypatch.setattr(mnist, '_from_tensorflow_datasets', fail)
  with pytest.raises(FileNotFoundError, match='ConnectionError.*train-images.*--data_dir'):
    mnist.load_arrays('mnist')


def test_a_module_that_is_missing_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorflow_datasets', None)
  with pytest.raises(FileNotFoundError, match='ModuleNotFoundError: .*tensorflow_datasets'):
    mnist.load_arrays('mnist')


@pytest.mark.parametrize(
  'damage, message',
  [
    (lambda data: data[: len(data) // 2], 'expected a complete gzip file'),
    (lambda data: b'not gzip', 'expected a complete gzip file'),
    (lambda data: gzip.compress(b'\x00\x00\x0d\x01'), 'expected an idx file of unsigned bytes'),
    (lambda data: gzip.compress(b'\x00\x00\x08\x01\x00'), 'expected a header of 8 bytes'),
    (lambda data: idx(np.zeros(20))[:0] + gzip.compress(gzip.decompress(data)[:-1]), 'elements'),
    (lambda data: idx(np.zeros(7)), r'found \[20, 28, 28\] and \[7\]'),
    (lambda data: idx(np.full(20, 11)), 'expected labels 0 to 9, found 11'),
  ],
)
def test_damaged_files_are_refused(folder, damage, message):
  path = folder / mnist.FILES[1]
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(ValueError, match=message):
    mnist.load_arrays('mnist', folder)


def test_refuses_other_names():
  with pytest.raises(ValueError, match="found 'kmnist'"):
    mnist.load_arrays('kmnist')


@pytest.mark.parametrize(
  'shape, message',
  [
    ((60_000, 28, 28), 'expected a complete gzip file, found more than 47,040,016 bytes'),
    ((2**32 - 1,) * 3, 'expected at most 47,040,000 elements, found 79,228,162,458,924,105,385'),
  ],
)
def test_files_are_read_no_further_than_mnist_goes(tmp_path, shape, message):
  path = tmp_path / 'x.gz'
  with gzip.open(path, 'wb', 1) as file:
    file.write(struct.pack('>HBB3I', 0, 8, 3, *shape))
    for _ in range(1 << 8):
      file.write(bytes(1 << 20))
  tracemalloc.start()
  with pytest.raises(files.FileError, match=message):
    mnist.read_idx(path)
  assert tracemalloc.get_traced_memory()[1] < 1.3 * 60_000 * 28 * 28 * 2
  tracemalloc.stop()
