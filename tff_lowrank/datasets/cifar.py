"""CIFAR-10 from its original binary files.

Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
https://www.cs.toronto.edu/~kriz/cifar.html: 50,000 training and 10,000 test images, 32x32
coloured, 10 classes. No licence is stated; cite the report.
"""

import pathlib
import tarfile
import zlib

import numpy as np

from tff_lowrank.datasets import arrays

URL = 'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz'
ARCHIVE = 'cifar-10-binary.tar.gz'
FOLDER = 'cifar-10-batches-bin'

TRAIN_FILES = tuple(f'data_batch_{i}.bin' for i in range(1, 6))
TEST_FILE = 'test_batch.bin'
FILES = (*TRAIN_FILES, TEST_FILE)

NUM_CLASSES = 10
# Of the training pixels, 0 to 255, a channel each.
MEAN = (125.3, 123.0, 113.9)
STD = (63.0, 62.1, 66.7)

_IMAGE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32


def parse_records(data: bytes, name: str) -> arrays.Split:
  """The images in the content of a binary file: each a label byte, then red, green, blue planes.

  Returns x: uint8 [num_examples, 32, 32, 3] and y: int32 [num_examples].

  Raises ValueError, with `name`, if it is not a number of whole records with labels 0 to 9.
  """
  if not data or len(data) % _RECORD_BYTES:
    raise ValueError(
      f'{name}: expected whole records of {_RECORD_BYTES} bytes, found {len(data)} bytes.'
    )
  records = np.frombuffer(data, np.uint8).reshape(-1, _RECORD_BYTES)
  y = records[:, 0].astype(np.int32)
  if y.max() >= NUM_CLASSES:
    raise ValueError(f'{name}: expected labels 0 to {NUM_CLASSES - 1}, found {y.max()}.')
  x = records[:, 1:].reshape(-1, *_IMAGE).transpose(0, 2, 3, 1)
  return arrays.Split(np.ascontiguousarray(x), y)


def _read_folder(folder: pathlib.Path) -> dict[str, bytes]:
  return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def _read_archive(path: pathlib.Path) -> dict[str, bytes]:
  found = {}
  try:
    with tarfile.open(path) as archive:
      for member in archive:
        name = pathlib.PurePosixPath(member.name).name
        if name in FILES and member.isfile():
          found[name] = archive.extractfile(member).read()
  except (EOFError, OSError, tarfile.TarError, zlib.error) as e:
    reason = str(e).partition('\n')[0]  # More of them try other compressions.
    raise ValueError(f'{path}: expected a whole tar archive, found: {reason}.') from e
  return found


def load_arrays(data_dir: str | None = None) -> arrays.Arrays:
  """Loads CIFAR-10.

  Args:
    data_dir: Holds the six binary files, a folder `cifar-10-batches-bin` with them, or the
      archive `cifar-10-binary.tar.gz` that they come in, looked for in this order.

  Returns:
    x: uint8 [num_examples, 32, 32, 3]; y: int32 [num_examples].

  Raises:
    FileNotFoundError: If files are missing; says which, and where they come from.
    ValueError: If a file is damaged or not what it should be.
  """
  how = f'Download {URL} and name its folder with --data_dir.'
  if data_dir is None:
    raise FileNotFoundError(f'cifar10 needs files that are not part of this package. {how}')
  folder = pathlib.Path(data_dir)
  if (folder / FOLDER).is_dir():
    folder = folder / FOLDER
  archive = folder / ARCHIVE
  found = _read_folder(folder)
  if not found and archive.is_file():
    found, folder = _read_archive(archive), archive
  missing = [name for name in FILES if name not in found]
  if missing:
    raise FileNotFoundError(f'cifar10: {folder} lacks {", ".join(missing)}. {how}')
  splits = {name: parse_records(found[name], str(folder / name)) for name in FILES}
  train = [splits[name] for name in TRAIN_FILES]
  return arrays.Arrays(
    arrays.Split(*(np.concatenate(part) for part in zip(*train, strict=True))), splits[TEST_FILE]
  )
