"""CIFAR-10 and CIFAR-100 from their original archives, in the binary or the Python version.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html: 50,000 training and 10,000 test images, 32x32
coloured, 10 or 100 classes. No licence is stated; cite the report. `load_pachinko` has the clients
that TFF made of CIFAR-100: 500 for training and 100 for the test, of 100 images each, by Pachinko
allocation (https://storage.googleapis.com/tff-datasets-public/cifar100.sqlite.lzma).
"""

from collections.abc import Callable
import dataclasses
import io
import pathlib
import pickle
import tarfile
from typing import Any
import zlib

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import tff_files

SOURCE = 'https://www.cs.toronto.edu/~kriz/'

# Of CIFAR-10's training pixels, 0 to 255, a channel each; used for CIFAR-100 too.
MEAN = (125.3, 123.0, 113.9)
STD = (63.0, 62.1, 66.7)

_IMAGE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


def _images(planes: np.ndarray) -> np.ndarray:
  """Red, green and blue planes [num_examples, 3072] as images."""
  return np.ascontiguousarray(planes.reshape(-1, *_IMAGE).transpose(0, 2, 3, 1))


def parse_records(
  data: bytes, name: str, num_labels: int = 1, num_classes: int = 10
) -> arrays.Split:
  """The images in the content of a binary file: each label bytes, then red, green, blue planes.

  Of `num_labels` bytes the last one is the class.

  Returns x: uint8 [num_examples, 32, 32, 3] and y: int32 [num_examples].

  Raises ValueError, with `name`, if it is not a number of whole records with possible labels.
  """
  size = num_labels + _PIXELS
  if not data or len(data) % size:
    raise ValueError(f'{name}: expected whole records of {size} bytes, found {len(data)} bytes.')
  records = np.frombuffer(data, np.uint8).reshape(-1, size)
  y = records[:, num_labels - 1].astype(np.int32)
  if y.max() >= num_classes:
    raise ValueError(f'{name}: expected labels 0 to {num_classes - 1}, found {y.max()}.')
  return arrays.Split(_images(records[:, num_labels:]), y)


_UNPICKLED = (
  ('numpy.core.multiarray', '_reconstruct'),
  ('numpy', 'ndarray'),
  ('numpy', 'dtype'),
  ('_codecs', 'encode'),
)


class _ArrayUnpickler(pickle.Unpickler):
  """Reads NumPy arrays, and runs nothing else that a file may ask for."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) not in _UNPICKLED:
      raise pickle.UnpicklingError(f'{module}.{name}')
    return super().find_class(module, name)


def parse_pickle(data: bytes, name: str, label_key: bytes, num_classes: int) -> arrays.Split:
  """As `parse_records`, of the content of a file of the Python version."""
  try:
    content = _ArrayUnpickler(io.BytesIO(data), encoding='bytes').load()
    planes, y = np.asarray(content[b'data']), np.asarray(content[label_key])
  except Exception as e:  # A damaged pickle raises anything.
    raise ValueError(f'{name}: expected a pickle of images and labels, found: {e!r}.') from e
  if planes.dtype != np.uint8 or planes.shape != (len(y), _PIXELS) or y.dtype.kind not in 'iu':
    raise ValueError(
      f'{name}: expected bytes [n, {_PIXELS}] and n labels, found {planes.dtype} {planes.shape} '
      f'and {y.dtype} {y.shape}.'
    )
  if not 0 <= y.min() <= y.max() < num_classes:
    raise ValueError(f'{name}: expected labels 0 to {num_classes - 1}, found {y.max()}.')
  return arrays.Split(_images(planes), y.astype(np.int32))


@dataclasses.dataclass(frozen=True)
class Version:
  """An archive of a data set.

  archive, folder, train_files, test_file: names.
  md5: of the archive.
  parse: `(content of a file, its name) -> Split`.
  """

  archive: str
  md5: str
  folder: str
  train_files: tuple[str, ...]
  test_file: str
  parse: Callable[[bytes, str], arrays.Split]

  @property
  def files(self) -> tuple[str, ...]:
    return (*self.train_files, self.test_file)


def _binary10(data: bytes, name: str) -> arrays.Split:
  return parse_records(data, name)


def _binary100(data: bytes, name: str) -> arrays.Split:
  return parse_records(data, name, num_labels=2, num_classes=100)


def _python10(data: bytes, name: str) -> arrays.Split:
  return parse_pickle(data, name, b'labels', 10)


def _python100(data: bytes, name: str) -> arrays.Split:
  return parse_pickle(data, name, b'fine_labels', 100)


def _batches(suffix: str) -> tuple[str, ...]:
  return tuple(f'data_batch_{i}{suffix}' for i in range(1, 6))


# The first one is what a missing file is asked for by.
VERSIONS = {
  'cifar10': (
    Version(
      'cifar-10-binary.tar.gz',
      'c32a1d4ab5d03f1284b67883e8d87530',
      'cifar-10-batches-bin',
      _batches('.bin'),
      'test_batch.bin',
      _binary10,
    ),
    Version(
      'cifar-10-python.tar.gz',
      'c58f30108f718f92721af3b95e74349a',
      'cifar-10-batches-py',
      _batches(''),
      'test_batch',
      _python10,
    ),
  ),
  'cifar100': (
    Version(
      'cifar-100-binary.tar.gz',
      '03b5dce01913d631647c71ecec9e9cb8',
      'cifar-100-binary',
      ('train.bin',),
      'test.bin',
      _binary100,
    ),
    Version(
      'cifar-100-python.tar.gz',
      'eb9058c3a382ffc7106e4002c42a8d85',
      'cifar-100-python',
      ('train',),
      'test',
      _python100,
    ),
  ),
}

NUM_CLASSES = {'cifar10': 10, 'cifar100': 100}

PACHINKO = tff_files.TffFiles(
  name='cifar100',
  sqlite='cifar100.sqlite',
  splits={'train': 'train', 'test': 'test'},
  hdf5={'train': 'fed_cifar100_train.h5', 'test': 'fed_cifar100_test.h5'},
  features={
    'image': tf.io.FixedLenFeature((32, 32, 3), tf.int64),
    'label': tf.io.FixedLenFeature((), tf.int64),
  },
  synthetic=tff.simulation.datasets.cifar100.get_synthetic,
)


def _read_folder(folder: pathlib.Path, version: Version) -> dict[str, bytes]:
  return {f: (folder / f).read_bytes() for f in version.files if (folder / f).is_file()}


def _read_archive(path: pathlib.Path, version: Version) -> dict[str, bytes]:
  found = {}
  try:
    with tarfile.open(path) as archive:
      for member in archive:
        name = pathlib.PurePosixPath(member.name).name
        if name in version.files and member.isfile():
          found[name] = archive.extractfile(member).read()
  except (EOFError, OSError, tarfile.TarError, zlib.error) as e:
    reason = str(e).partition('\n')[0]  # More of them try other compressions.
    raise ValueError(f'{path}: expected a whole tar archive, found: {reason}.') from e
  return found


def _find(folder: pathlib.Path, version: Version) -> tuple[dict[str, bytes], pathlib.Path]:
  """The content of the files that are there, and where they are."""
  if (folder / version.folder).is_dir():
    folder = folder / version.folder
  archive = folder / version.archive
  found = _read_folder(folder, version)
  if not found and archive.is_file():
    return _read_archive(archive, version), archive
  return found, folder


def load_arrays(data_dir: str | None = None, name: str = 'cifar10') -> arrays.Arrays:
  """Loads CIFAR-10, or CIFAR-100 with its 100 classes.

  Args:
    data_dir: Holds the files of one version, the folder with them that is in its archive, or the
      archive itself, looked for in this order.
    name: `'cifar10'` or `'cifar100'`.

  Returns:
    x: uint8 [num_examples, 32, 32, 3]; y: int32 [num_examples].

  Raises:
    FileNotFoundError: If files are missing; says which, and where they come from.
    ValueError: If a file is damaged or not what it should be.
  """
  versions = VERSIONS[name]
  how = f'Download {SOURCE}{versions[0].archive} and name its folder with --data_dir.'
  if data_dir is None:
    raise FileNotFoundError(f'{name} needs files that are not part of this package. {how}')
  found = [(version, *_find(pathlib.Path(data_dir), version)) for version in versions]
  version, contents, where = next((item for item in found if item[1]), found[0])
  missing = [file for file in version.files if file not in contents]
  if missing:
    raise FileNotFoundError(f'{name}: {where} lacks {", ".join(missing)}. {how}')
  splits = {file: version.parse(contents[file], str(where / file)) for file in version.files}
  train = [splits[file] for file in version.train_files]
  return arrays.Arrays(
    arrays.Split(*(np.concatenate(part) for part in zip(*train, strict=True))),
    splits[version.test_file],
  )


def _to_examples(features: client_files.Features) -> arrays.Split:
  images = arrays.checked_integers('image', features['image'], 255)
  labels = arrays.checked_integers('label', features['label'], NUM_CLASSES['cifar100'] - 1)
  return arrays.Split(images.astype(np.uint8), labels.astype(np.int32))


def load_pachinko(data_dir: str | None) -> tuple[client_files.FileClientData, arrays.Split]:
  """TFF's clients of CIFAR-100, read on demand, and the test images of all test clients.

  x: uint8 [num_examples, 32, 32, 3]; y: int32 [num_examples]. Errors: as `TffFiles.open`.
  """
  train, test = (
    client_files.FileClientData(PACHINKO.open(data_dir, part), _to_examples)
    for part in ('train', 'test')
  )
  return train, test.pooled()
