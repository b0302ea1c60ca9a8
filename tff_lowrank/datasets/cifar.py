"""CIFAR-10 and CIFAR-100 from their original archives, in the binary or the Python version.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html: 50,000 training and 10,000 test images, 32x32
coloured, 10 or 100 classes. No licence is stated; cite the report. `load_pachinko` has TFF's
clients of CIFAR-100: 500 for training and 100 for test, with 100 images each, by Pachinko
allocation (https://storage.googleapis.com/tff-datasets-public/cifar100.sqlite.lzma).
"""

from collections.abc import Callable
import dataclasses
import io
import pathlib
import pickle
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import files
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import tff_files

SOURCE = 'https://www.cs.toronto.edu/~kriz/'

# Statistics of CIFAR-10's training pixels, 0 to 255, per channel; used for CIFAR-100, too.
MEAN = (125.3, 123.0, 113.9)
STD = (63.0, 62.1, 66.7)

_IMAGE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


def _images(planes: np.ndarray) -> np.ndarray:
  """Converts red, green and blue planes [num_examples, 3072] to images."""
  return np.ascontiguousarray(planes.reshape(-1, *_IMAGE).transpose(0, 2, 3, 1))


def parse_records(
  data: bytes, name: str, num_labels: int = 1, num_classes: int = 10
) -> arrays.Split:
  """Parses a binary file; a record has label bytes, then red, green and blue planes.

  The last one of `num_labels` bytes is the class.

  Returns x: uint8 [num_examples, 32, 32, 3] and y: int32 [num_examples].

  Raises FileError for the file `name` unless it consists of whole records with valid labels.
  """
  size = num_labels + _PIXELS
  if not data or len(data) % size:
    raise files.FileError(name, f'whole records of {size} bytes', f'{len(data)} bytes')
  records = np.frombuffer(data, np.uint8).reshape(-1, size)
  y = records[:, num_labels - 1].astype(np.int32)
  if y.max() >= num_classes:
    raise files.FileError(name, f'labels 0 to {num_classes - 1}', str(y.max()))
  return arrays.Split(_images(records[:, num_labels:]), y)


# The functions of NumPy 1 and 2 that create an array from its parts or a buffer (protocol 5).
_ARRAYS = tuple(f'numpy.{core}.multiarray._reconstruct' for core in ('core', '_core'))
_BUFFERS = tuple(f'numpy.{core}.numeric._frombuffer' for core in ('core', '_core'))
_DTYPE = 'numpy.dtype'
# The function by which Python 3 writes bytes for Python 2.
_ENCODED, _NO_BYTES = '_codecs.encode', '__builtin__.bytes'
_NAMES = (*_ARRAYS, *_BUFFERS, _DTYPE, _ENCODED, _NO_BYTES, 'numpy.ndarray')


class _Kept:
  """A placeholder for an object that a pickle would create: it records how, and creates nothing.

  name: the function or class. arguments: of its call. state: the state that is then set.
  """

  def __init__(self, name: str, arguments: tuple = ()):
    self.name, self.arguments = name, arguments
    self.state: tuple[Any, ...] = ()

  def __call__(self, *arguments: Any) -> 'bytes | _Kept':
    if self.name == _ENCODED:
      return arguments[0].encode('latin1')
    if self.name == _NO_BYTES and not arguments:
      return b''
    return _Kept(self.name, arguments)

  def __setstate__(self, state: Any) -> None:
    self.state = state


# A batch has a dictionary, an array and its dtype, and encoded bytes. More objects could nest
# deeply, or grow beyond the size of the file.
_MAX_BUILT = 40
_COUNTED = (
  pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.DICT, pickle.EMPTY_DICT,
  pickle.REDUCE, pickle.BUILD,
)  # fmt: skip
_REFUSED = (
  pickle.DUP, pickle.FROZENSET, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.NEWOBJ, pickle.NEWOBJ_EX,
  pickle.INST, pickle.OBJ,
)  # fmt: skip


def _is_pair_of_text(made: Any) -> bool:
  return isinstance(made, tuple) and len(made) == 2 and all(isinstance(x, str) for x in made)


def _counted(load: Callable[['_Unpickler'], None]) -> Callable[['_Unpickler'], None]:
  def load_and_count(unpickler: '_Unpickler') -> None:
    load(unpickler)
    made = unpickler.stack[-1]  # type: ignore[attr-defined]  # Not in the stubs.
    if isinstance(made, bytes):
      unpickler.num_encoded += len(made)
    elif not _is_pair_of_text(made):  # The source of encoded bytes.
      unpickler.num_built += 1
    if unpickler.num_built > _MAX_BUILT:
      raise ValueError(f'more than {_MAX_BUILT} tuples, dictionaries and calls')
    if unpickler.num_encoded > unpickler.max_encoded:
      raise ValueError('the same bytes encoded again and again')

  return load_and_count


# The Python implementation, since the C one allocates as many objects as the file claims to have.
class _Unpickler(pickle._Unpickler):
  """Reads numbers, text, lists and dictionaries; keeps the parts of NumPy arrays."""

  num_built = num_encoded = max_encoded = 0
  dispatch: ClassVar = pickle._Unpickler.dispatch | {
    operation[0]: _counted(pickle._Unpickler.dispatch[operation[0]]) for operation in _COUNTED
  }
  for operation in _REFUSED:
    del dispatch[operation[0]]
  del operation
  # Read like bytes: Python would allocate as many as the file claims to have.
  dispatch[pickle.BYTEARRAY8[0]] = dispatch[pickle.BINBYTES8[0]]

  def __init__(self, data: bytes):
    super().__init__(io.BytesIO(data), encoding='bytes')
    self.max_encoded = len(data)

  def find_class(self, module: str, name: str) -> _Kept:
    found = f'{module}.{name}'
    if found not in _NAMES:
      raise pickle.UnpicklingError(found)
    return _Kept(found)


def _bytes_array(kept: Any) -> np.ndarray:
  """The byte array from its parts; raises ValueError if it is not one."""
  if not isinstance(kept, _Kept) or kept.name not in (*_ARRAYS, *_BUFFERS):
    raise ValueError(f'{type(kept).__name__} instead of an array')
  if kept.name in _BUFFERS:
    data, dtype, shape, order = kept.arguments
  else:
    # As in numpy.ndarray.__reduce__.
    _, shape, dtype, is_fortran, data = kept.state
    order = 'F' if is_fortran else 'C'
  if not isinstance(dtype, _Kept) or dtype.name != _DTYPE:
    raise ValueError('an array without a type')
  if dtype.arguments[0] not in ('u1', b'u1', '|u1', b'|u1'):
    raise ValueError('an array that is not of bytes')
  return np.frombuffer(data, np.uint8).reshape(shape, order=order)


def _entry(content: dict[Any, Any], key: bytes) -> Any:
  """The entry of Python 2's `key`, which is text if Python 3 wrote the file."""
  return content[key.decode() if key.decode() in content else key]


def parse_pickle(data: bytes, name: str, label_key: bytes, num_classes: int) -> arrays.Split:
  """As `parse_records`, for a file of the Python version.

  No code in the file is run, and only objects of Python's own types are created.
  """
  try:
    content = _Unpickler(data).load()
    planes, labels = _bytes_array(_entry(content, b'data')), _entry(content, label_key)
    if isinstance(labels, _Kept):
      labels = _bytes_array(labels).tolist()
    is_number = (type(label) is int and abs(label) < 2**31 for label in labels)
    if not isinstance(labels, list) or not all(is_number):
      raise ValueError('labels that are not a list of whole numbers')
  except Exception as e:  # A damaged pickle can raise any error.
    raise files.FileError(name, 'a pickle of images and labels', repr(e)) from e
  if planes.shape != (len(labels), _PIXELS) or not labels:
    expected = f'bytes [n, {_PIXELS}] and n labels, n at least 1'
    raise files.FileError(name, expected, f'{list(planes.shape)} and {len(labels)}')
  wrong = [label for label in labels if not 0 <= label < num_classes]
  if wrong:
    raise files.FileError(name, f'labels 0 to {num_classes - 1}', str(wrong[0]))
  return arrays.Split(_images(planes), np.array(labels, np.int32))


@dataclasses.dataclass(frozen=True)
class Version:
  """An archive of a data set.

  archive, folder, train_files, test_file: names.
  md5: the checksum of the archive.
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


# If files are missing, the error names the first version.
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


# The largest file has 50,000 images: 3,072 bytes each, labels, and in a pickle a file name.
_MAX_FILE_BYTES, _MAX_ARCHIVE_BYTES = 50_000 * 3_200, 60_000 * 3_200


def _read_folder(folder: pathlib.Path, version: Version) -> dict[str, bytes]:
  found = {}
  for name in version.files:
    path = folder / name
    if path.exists() and not path.is_dir():  # A folder `train` may belong to other data.
      with files.opening(path, 'images and labels', _MAX_FILE_BYTES) as stream:
        found[name] = stream.read()
  return found


def _read_archive(path: pathlib.Path, version: Version) -> dict[str, bytes]:
  found = {}
  with files.opening_tar(path, _MAX_ARCHIVE_BYTES) as archive:
    for member in archive:
      name = pathlib.PurePosixPath(member.name).name
      if name in version.files and member.isfile():
        if member.size > _MAX_FILE_BYTES:
          raise files.FileError(
            path / name, f'at most {_MAX_FILE_BYTES:,} bytes', f'{member.size:,}'
          )
        stream = archive.extractfile(member)
        assert stream is not None  # As it is a file.
        found[name] = stream.read()
  missing = [name for name in version.files if name not in found]
  if missing:
    raise files.FileError(path, f'{", ".join(version.files)} in it', f'no {", ".join(missing)}')
  return found


def _find(folder: pathlib.Path, version: Version) -> tuple[dict[str, bytes], pathlib.Path]:
  """The content of the files that exist, and their place."""
  if (folder / version.folder).is_dir():
    folder = folder / version.folder
  archive = folder / version.archive
  found = _read_folder(folder, version)
  if not found and archive.exists():
    return _read_archive(archive, version), archive
  return found, folder


def load_arrays(data_dir: str | None = None, name: str = 'cifar10') -> arrays.Arrays:
  """Loads CIFAR-10, or CIFAR-100 with its 100 classes.

  Args:
    data_dir: A folder with the files of one version, the folder from its archive, or the archive
      itself, searched for in this order.
    name: `'cifar10'` or `'cifar100'`.

  Returns:
    x: uint8 [num_examples, 32, 32, 3]; y: int32 [num_examples].

  Raises:
    FileNotFoundError: If files are missing; says which, and where to get them.
    FileError: If a file is damaged or has another format.
  """
  versions = VERSIONS[name]
  how = f'Download {SOURCE}{versions[0].archive} and pass its folder as --data_dir.'
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
