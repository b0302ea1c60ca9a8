import numpy as np
import pytest

from tests.datasets import tff_format
from tff_lowrank.datasets import digits
from tff_lowrank.datasets import emnist


def as_features(split, chosen):
  """Real digits of 8x8 as EMNIST has them: 28x28, ink 0, background 1."""
  large = np.kron(split.x[chosen, ..., 0], np.ones([3, 3]))
  padded = np.pad(large, [(0, 0), (2, 2), (2, 2)])
  pixels = (1 - padded / digits.MAX_VALUE).astype(np.float32)
  return {'pixels': pixels, 'label': split.y[chosen].astype(np.int32)}


@pytest.fixture
def writers():
  train, test = digits.load_arrays()
  return (
    {'f0000_14': as_features(train, range(7)), 'f0001_41': as_features(train, range(7, 12))},
    {'f0000_14': as_features(test, range(2)), 'f0001_41': as_features(test, range(2, 3))},
  )


def check(data, writers):
  train, test = data
  assert train.client_ids == ['f0000_14', 'f0001_41']
  for writer, features in writers[0].items():
    examples = train.examples(writer)
    np.testing.assert_array_equal(examples.x, features['pixels'][..., None])
    np.testing.assert_array_equal(examples.y, features['label'])
    assert examples.x.dtype == np.float32 and examples.y.dtype == np.int32
  expected = np.concatenate([features['label'] for features in writers[1].values()])
  np.testing.assert_array_equal(test.y, expected)
  assert test.x.shape == (3, 28, 28, 1)


def test_sqlite(tmp_path, writers):
  few = {'f0000_14': {k: v[:1] for k, v in writers[0]['f0000_14'].items()}}
  splits = dict(digits_only_train=writers[0], digits_only_test=writers[1], all_train=few,
                all_test=few)  # fmt: skip
  tff_format.write_sqlite(tmp_path / 'emnist_all.sqlite', splits)
  check(emnist.load_data(str(tmp_path), only_digits=True), writers)
  train, test = emnist.load_data(str(tmp_path), only_digits=False)
  assert train.num_examples('f0000_14') == len(test.y) == 1


@pytest.mark.parametrize('name, only_digits', [('fed_emnist_digitsonly', True),
                                               ('fed_emnist', False)])  # fmt: skip
def test_hdf5(tmp_path, writers, name, only_digits):
  for part, clients in zip(('train', 'test'), writers, strict=True):
    tff_format.write_hdf5(tmp_path / f'{name}_{part}.h5', clients)
  check(emnist.load_data(str(tmp_path), only_digits), writers)
  with pytest.raises(FileNotFoundError, match='lacks emnist_all.sqlite'):
    emnist.load_data(str(tmp_path), not only_digits)


@pytest.mark.parametrize('label', [300, 2**32, 10, -1])
def test_labels_that_are_no_class_are_refused(tmp_path, writers, label):
  writers[0]['f0000_14']['label'] = np.full(7, label, np.int64)
  names = ('fed_emnist_digitsonly_train.h5', 'fed_emnist_digitsonly_test.h5')
  for name, clients in zip(names, writers, strict=True):
    tff_format.write_hdf5(tmp_path / name, clients)
  train, _ = emnist.load_data(str(tmp_path), only_digits=True)
  with pytest.raises(ValueError, match=f'label: expected integers from 0 to 9, found {label}'):
    train.examples('f0000_14')
