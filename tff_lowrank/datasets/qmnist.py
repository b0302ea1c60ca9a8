"""MNIST by writer, from QMNIST's labels: a substitute for federated EMNIST digits.

Yadav and Bottou, Cold Case: The Lost MNIST Digits, NeurIPS 2019,
https://github.com/facebookresearch/qmnist (labels: BSD): the NIST writer of every MNIST digit. 539
writers wrote the 60,000 training digits (19 to 131 each), 297 others the 10,000 test digits.
"""

import pathlib

import numpy as np

from tff_lowrank import files
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import mnist

SOURCE = 'https://raw.githubusercontent.com/facebookresearch/qmnist/master/'
LABELS = 'qmnist-train-labels-idx2-int.gz'

_DIGIT, _WRITER = 0, 2  # Columns.


def _find_labels(data_dir: str) -> pathlib.Path:
  folder = pathlib.Path(data_dir)
  for path in (folder / LABELS, folder / 'qmnist' / LABELS):
    if path.exists():
      return path
  raise FileNotFoundError(f'qmnist: {folder} lacks {LABELS}. Download it from {SOURCE}.')


def load_data(data_dir: str | None = None) -> tuple[arrays.ArrayClientData, arrays.Split]:
  """The training digits with one client per writer, and all test digits.

  Clients are called `writer_0000` and so on, with the writer's number in NIST's data. Test digits
  per writer must be held out from the training digits with `ArrayClientData.held_out`, since the
  test set has other writers.

  Args:
    data_dir: A folder with MNIST's files, or a folder `mnist` with them, and with the label file
      of QMNIST's training set, or a folder `qmnist` with it.

  Returns:
    x: uint8 [num_examples, 28, 28, 1]; y: int32 [num_examples].

  Raises:
    FileNotFoundError: If files are missing; says which, and where to get them.
    FileError: If a file is damaged or the labels are not those of MNIST's training digits.
  """
  if data_dir is None:
    raise FileNotFoundError(
      f'qmnist needs MNIST ({", ".join(mnist.FILES)} from {mnist.SOURCES["mnist"]}) and {LABELS} '
      f'(from {SOURCE}). Download them to a folder, and pass it as --data_dir.'
    )
  path = _find_labels(data_dir)
  train, test = mnist.load_arrays('mnist', data_dir)
  labels = mnist.read_idx(path, code=12)
  if labels.ndim != 2 or labels.shape[1] <= _WRITER or len(labels) != len(train.y):
    raise files.FileError(
      path,
      f'at least 3 columns for each of {len(train.y)} training digits',
      str(list(labels.shape)),
    )
  if np.any(labels[:, _DIGIT] != train.y):
    raise files.FileError(path, f'the labels of the MNIST files in {data_dir}', 'others')
  writers = labels[:, _WRITER]
  indices = {f'writer_{w:04d}': np.flatnonzero(writers == w) for w in np.unique(writers)}
  return arrays.ArrayClientData(train, indices), test
