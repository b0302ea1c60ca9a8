"""MNIST and Fashion-MNIST from their original files.

MNIST: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist (CC BY-SA 3.0). Fashion-MNIST:
Xiao, Rasul, Vollgraf, https://github.com/zalandoresearch/fashion-mnist (MIT). Each is 60,000
training and 10,000 test images, 28x28 grey, 10 classes.
"""

import math
import pathlib
import struct

import numpy as np

from tff_lowrank import checks
from tff_lowrank import files
from tff_lowrank.datasets import arrays

# Statistics of the training pixels, 0 to 255.
MEAN_AND_STD = {
  'mnist': (0.1307 * 255, 0.3081 * 255),
  'fashion_mnist': (0.2860 * 255, 0.3530 * 255),
}

SOURCES = {
  'mnist': 'https://ossci-datasets.s3.amazonaws.com/mnist/',
  'fashion_mnist': 'http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/',
}

FILES = (
  'train-images-idx3-ubyte.gz',
  'train-labels-idx1-ubyte.gz',
  't10k-images-idx3-ubyte.gz',
  't10k-labels-idx1-ubyte.gz',
)


# Element types of idx files by their code, and the number of elements in the largest file of each:
# MNIST's images, QMNIST's table. Numbers are big-endian.
_IDX_TYPES: dict[int, tuple[str, np.dtype, int]] = {
  8: ('unsigned bytes', np.dtype(np.uint8), 60_000 * 28 * 28),
  12: ('integers', np.dtype('>i4'), 60_000 * 8),
}
_MAX_HEADER = 16


def read_idx(path: pathlib.Path, code: int = 8) -> np.ndarray:
  """Reads a gzipped idx file of unsigned bytes (`code` 8) or 32-bit integers (12).

  Raises FileError if it is damaged, has another format, or is larger than any of the data sets.
  """
  name, dtype, max_elements = _IDX_TYPES[code]
  max_bytes = _MAX_HEADER + max_elements * dtype.itemsize
  with files.opening(path, 'a complete gzip file', max_bytes) as stream:
    # Two zero bytes, the element type, the rank, then a length per axis.
    start = stream.read(4)
    if len(start) < 4 or start[:3] != bytes([0, 0, code]):
      raise files.FileError(path, f'an idx file of {name}', repr(start))
    rank = start[3]
    if not 1 <= rank <= 3:
      raise files.FileError(path, 'an array of 1 to 3 axes', str(rank))
    lengths = stream.read(4 * rank)
    if len(lengths) < 4 * rank:
      raise files.FileError(path, f'a header of {4 + 4 * rank} bytes', f'{4 + len(lengths)} in all')
    shape = struct.unpack(f'>{rank}I', lengths)
    count = math.prod(shape)
    if count > max_elements:
      raise files.FileError(path, f'at most {max_elements:,} elements', f'{count:,}')
    data = stream.read()
  found = len(data) / dtype.itemsize
  if found != count:
    raise files.FileError(path, f'{count} elements', f'{found:g}')
  return np.frombuffer(data, dtype).reshape(shape)


def _read_split(folder: pathlib.Path, images: str, labels: str) -> arrays.Split:
  x, y = read_idx(folder / images), read_idx(folder / labels)
  if x.ndim != 3 or x.shape[1:] != (28, 28) or y.shape != x.shape[:1] or not len(y):
    raise files.FileError(
      folder,
      f'{images} of shape [n, 28, 28] and {labels} of shape [n], n at least 1',
      f'{list(x.shape)} and {list(y.shape)}',
    )
  if y.max() > 9:
    raise files.FileError(folder / labels, 'labels 0 to 9', str(y.max()))
  return arrays.Split(x[..., np.newaxis], y.astype(np.int32))


def _from_tensorflow_datasets(name: str) -> arrays.Arrays:
  import tensorflow_datasets as tfds  # Takes seconds to import, and is rarely needed.

  def split(part: str) -> arrays.Split:
    loaded = tfds.load(name, split=part, batch_size=-1)
    return arrays.Split(loaded['image'].numpy(), loaded['label'].numpy().astype(np.int32))

  return arrays.Arrays(split('train'), split('test'))


def _first_line(error: Exception) -> str:
  return f'{type(error).__name__}: {error}'.strip().partition('\n')[0].rstrip('.: ')


def load_arrays(name: str = 'mnist', data_dir: str | None = None) -> arrays.Arrays:
  """Loads `'mnist'` or `'fashion_mnist'`.

  Args:
    name: Which of the two.
    data_dir: A folder with the four idx files, or with a folder `name` that has them. If None,
      tensorflow-datasets is used, which downloads them on first use.

  Returns:
    x: uint8 [num_examples, 28, 28, 1]; y: int32 [num_examples].

  Raises:
    FileNotFoundError: If files are missing; says which, and where to get them.
    FileError: If a file is damaged or has another format.
  """
  checks.check_one_of('name', name, SOURCES)
  if data_dir is None:
    try:
      return _from_tensorflow_datasets(name)
    except Exception as e:
      raise FileNotFoundError(
        f'{name} was not found, and tensorflow-datasets could not download it ({_first_line(e)}). '
        f'Download {", ".join(FILES)} from {SOURCES[name]} into a folder and pass it as '
        '--data_dir.'
      ) from e
  folder = pathlib.Path(data_dir)
  if (folder / name).is_dir():
    folder = folder / name
  missing = [f for f in FILES if not (folder / f).exists()]
  if missing:
    raise FileNotFoundError(
      f'{name}: {folder} lacks {", ".join(missing)}. Download them from {SOURCES[name]}.'
    )
  return arrays.Arrays(_read_split(folder, *FILES[:2]), _read_split(folder, *FILES[2:]))
