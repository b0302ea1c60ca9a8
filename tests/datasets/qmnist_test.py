import gzip
import struct

import numpy as np
import pytest

from tests.datasets import mnist_test
from tff_lowrank.datasets import qmnist

folder = mnist_test.folder  # 20 training and 5 test digits.

WRITERS = np.repeat([7, 2100, 31], [5, 12, 3])


def write_labels(path, digits, writers=WRITERS):
  """QMNIST's eight columns, big-endian, of which the digit and the writer are read."""
  columns = np.zeros([len(digits), 8], '>i4')
  columns[:, 0], columns[:, 1], columns[:, 2] = digits, 4, writers
  header = struct.pack('>HBBII', 0, 12, 2, *columns.shape)
  path.write_bytes(gzip.compress(header + columns.tobytes()))


@pytest.fixture
def digits():
  rng = np.random.default_rng(0)
  rng.integers(0, 256, (20, 28, 28))  # The images come first in `folder`.
  return rng.integers(0, 10, 20)


def test_each_writer_has_its_own_digits(folder, digits):
  write_labels(folder / qmnist.LABELS, digits)
  train, test = qmnist.load_data(str(folder))
  assert train.client_ids == ['writer_0007', 'writer_0031', 'writer_2100']
  for writer, part in ((7, slice(0, 5)), (2100, slice(5, 17)), (31, slice(17, 20))):
    examples = train.examples(f'writer_{writer:04d}')
    np.testing.assert_array_equal(examples.y, digits[part])
    assert examples.x.shape == (len(examples.y), 28, 28, 1)
  assert len(test.y) == 5


def test_finds_folders_of_their_names(folder, digits):
  for name in ('mnist', 'qmnist'):
    (folder / name).mkdir()
  for path in folder.glob('*.gz'):
    path.rename(folder / 'mnist' / path.name)
  write_labels(folder / 'qmnist' / qmnist.LABELS, digits)
  assert len(qmnist.load_data(str(folder))[0].client_ids) == 3


def test_real_files(shared_data):
  train, test = qmnist.load_data(str(shared_data))
  sizes = [train.num_examples(c) for c in train.client_ids]
  assert (len(sizes), min(sizes), np.median(sizes), max(sizes)) == (539, 19, 116, 131)
  assert sum(sizes) == 60_000 and len(test.y) == 10_000


def test_what_is_missing_is_named_with_its_source(folder):
  with pytest.raises(FileNotFoundError, match=f'lacks {qmnist.LABELS}.*facebookresearch/qmnist'):
    qmnist.load_data(str(folder))
  with pytest.raises(FileNotFoundError, match='train-images.*ossci.*qmnist-train.*--data_dir'):
    qmnist.load_data()


def test_labels_of_other_digits_are_refused(folder, digits):
  write_labels(folder / qmnist.LABELS, (digits + 1) % 10)
  with pytest.raises(ValueError, match='expected the labels of the MNIST files'):
    qmnist.load_data(str(folder))
  write_labels(folder / qmnist.LABELS, digits[:5], WRITERS[:5])
  with pytest.raises(ValueError, match=r'each of 20 training digits, found \[5, 8\]'):
    qmnist.load_data(str(folder))
  (folder / qmnist.LABELS).write_bytes(mnist_test.idx(digits))
  with pytest.raises(ValueError, match='expected an idx file of integers'):
    qmnist.load_data(str(folder))
