"""Features of spoken keywords, for the LSTM of APF's experiments, from a .npz file.

APF (Chen et al., ICDCS 2021) trains on the 10-keyword subset of Google's Speech Commands (Warden,
2018, arXiv 1804.03209; CC BY 4.0) as 50 frames of 10 features. You can use any such data: create
`keywords.npz` with `numpy.savez` from

  x: [num_examples, num_frames, num_features], any numbers: features of recordings of equal length,
    such as log-mel energies or MFCCs;
  y: [num_examples] whole numbers from 0: the keyword;
  speaker: [num_examples], numbers or text: the speaker;
  is_test: [num_examples] booleans, optional: whether the example is in the test set. Without it, a
    tenth of each keyword's examples is, the same in every call.
"""

import math
import pathlib
from typing import IO, NamedTuple
import zipfile

import numpy as np
from sklearn import model_selection

from tff_lowrank import files
from tff_lowrank.datasets import arrays

FILE = 'keywords.npz'
TEST_FRACTION = 0.1

_REQUIRED = ('x', 'y', 'speaker')
_NAMES = (*_REQUIRED, 'is_test')
_MAX_CLASSES = 10_000
_MAX_BYTES = 1 << 32  # 100,000 recordings in 98 frames of 40 float32 are 1.6e9.
_NPY_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


class Keywords(NamedTuple):
  """x: float32 [num_examples, num_frames, num_features]; y: int32 [num_examples].

  speakers: [len(train.y)] text. num_classes: the number of keywords in both sets.
  """

  train: arrays.Split
  test: arrays.Split
  speakers: np.ndarray
  num_classes: int

  def by_speaker(self) -> arrays.ArrayClientData:
    """The training examples, with one client per speaker."""
    indices = {f'speaker_{s}': np.flatnonzero(self.speakers == s) for s in set(self.speakers)}
    return arrays.ArrayClientData(self.train, indices)


def made_up() -> Keywords:
  """Random features with the shape of APF's data, with labels, from three speakers."""
  train, test = arrays.made_up((50, 10), 10)
  train, test = (arrays.Split(x.astype(np.float32), y) for x, y in (train, test))
  return Keywords(train, test, (np.arange(len(train.y)) % 3).astype(np.str_), 10)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the arrays named above from a .npz file, up to the size in its headers and the limit."""
  found = {}
  with (
    files.reading(path, 'a complete .npz file of plain arrays'),
    zipfile.ZipFile(path) as archive,
  ):
    members = {member.filename: member for member in archive.infolist()}
    missing = [name for name in _REQUIRED if f'{name}.npy' not in members]
    if missing:
      names = ', '.join(name.removesuffix('.npy') for name in members)
      raise files.FileError(path, 'x, y and speaker', names or 'nothing')
    named = {name: members[f'{name}.npy'] for name in _NAMES if f'{name}.npy' in members}
    size = sum(member.file_size for member in named.values())
    if size > _MAX_BYTES:
      raise files.FileError(path, f'at most {_MAX_BYTES:,} bytes, decompressed', f'{size:,}')
    for name, member in named.items():
      with archive.open(member) as stream:
        found[name] = _read_array(stream, member.file_size)
  return found


def _read_array(stream: IO[bytes], size: int) -> np.ndarray:
  """Reads an array in .npy format from a stream; ValueError if it does not have `size` bytes."""
  read_header = _NPY_HEADERS[np.lib.format.read_magic(stream)]
  shape, is_fortran, dtype = read_header(stream)
  if dtype.hasobject:
    raise ValueError('Python objects')
  expected, left = math.prod(shape) * dtype.itemsize, size - stream.tell()
  # NumPy would allocate the size in the header before it reads.
  if min(shape, default=0) < 0 or left != expected:
    raise ValueError(f'{left:,} bytes of an array of shape {list(shape)} and type {dtype}')
  array = np.frombuffer(stream.read(), dtype)
  return array.reshape(shape, order='F' if is_fortran else 'C')


def _check(path: pathlib.Path, found: dict[str, np.ndarray]) -> None:
  x, y, speaker = found['x'], found['y'], found['speaker']
  if x.ndim != 3 or y.shape != x.shape[:1] or speaker.shape != y.shape or not x.size:
    raise files.FileError(
      path,
      'x of shape [n, frames, features], y and speaker of shape [n], none empty',
      f'{list(x.shape)}, {list(y.shape)} and {list(speaker.shape)}',
    )
  if x.size * 4 > _MAX_BYTES:
    raise files.FileError(path, f'at most {_MAX_BYTES // 4:,} numbers in x', f'{x.size:,}')
  largest = np.finfo(np.float32).max
  if x.dtype.kind not in 'iuf' or not (np.abs(x.astype(np.float64)) <= largest).all():
    raise files.FileError(path, 'finite numbers in x, as float32', f'type {x.dtype} or others')
  if y.dtype.kind not in 'iu' or y.min() < 0 or y.max() >= _MAX_CLASSES:
    expected = f'whole numbers from 0 to {_MAX_CLASSES - 1} in y'
    raise files.FileError(path, expected, f'type {y.dtype} or others')
  is_test = found.get('is_test')
  if is_test is not None and (is_test.shape != y.shape or is_test.dtype != np.bool_):
    raise files.FileError(
      path,
      f'booleans of shape {list(y.shape)} in is_test',
      f'type {is_test.dtype}, shape {list(is_test.shape)}',
    )


def _split(path: pathlib.Path, y: np.ndarray) -> np.ndarray:
  """Which examples are for the test, if the file does not say so."""
  with files.reading(path, 'examples of which a tenth can be set aside as the test set'):
    _, test = model_selection.train_test_split(
      np.arange(len(y)), test_size=TEST_FRACTION, stratify=y, random_state=0
    )
  is_test = np.zeros(len(y), np.bool_)
  is_test[test] = True
  return is_test


def load_data(data_dir: str | None = None) -> Keywords:
  """Reads `keywords.npz` in `data_dir`, or in a folder `keywords` there.

  Raises:
    FileNotFoundError: If the file is missing.
    FileError: If it is damaged or not as the module says.
  """
  how = (
    f'Create {FILE} as tff_lowrank/datasets/keywords.py says, and pass its folder as --data_dir.'
  )
  if data_dir is None:
    raise FileNotFoundError(f'keywords needs a file that is not part of this package. {how}')
  folder = pathlib.Path(data_dir)
  paths = [folder / FILE, folder / 'keywords' / FILE]
  path = next((p for p in paths if p.exists()), None)
  if path is None:
    raise FileNotFoundError(f'keywords: {folder} lacks {FILE}. {how}')
  found = _read(path)
  _check(path, found)
  x, y = found['x'].astype(np.float32), found['y'].astype(np.int32)
  is_test = found['is_test'] if 'is_test' in found else _split(path, y)
  train, test = (arrays.Split(x[part], y[part]) for part in (~is_test, is_test))
  if not len(train.y) or not len(test.y):
    raise files.FileError(path, 'training and test examples', 'only one of them')
  with files.reading(path, 'numbers or text in speaker'):
    speakers = found['speaker'][~is_test].astype(np.str_)
  return Keywords(train, test, speakers, int(y.max()) + 1)
