"""Federated EMNIST: handwritten digits, or digits and letters, by writer.

Cohen, Afshar, Tapson, van Schaik, EMNIST, 2017 (from NIST Special Database 19, public domain), by
writer as in LEAF (Caldas et al., 2018, arXiv 1812.01097), distributed by TFF as
`emnist_all.sqlite` (https://storage.googleapis.com/tff-datasets-public/emnist_all.sqlite.lzma),
earlier as `fed_emnist_digitsonly_train.h5` and so on. Digits: 3,383 writers, 341,873 training and
40,832 test examples; all 62 classes: 3,400 writers, 671,585 and 77,483. Every writer has training
and test examples. Background is 1, ink 0.
"""

import functools

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import tff_files

NUM_CLASSES = {True: 10, False: 62}  # By `only_digits`.


def files(only_digits: bool) -> tff_files.TffFiles:
  """The files of the digits, or of all classes."""
  sql, hdf5 = ('digits_only', 'fed_emnist_digitsonly') if only_digits else ('all', 'fed_emnist')
  return tff_files.TffFiles(
    name='emnist',
    sqlite='emnist_all.sqlite',
    splits={part: f'{sql}_{part}' for part in ('train', 'test')},
    hdf5={part: f'{hdf5}_{part}.h5' for part in ('train', 'test')},
    features={
      'pixels': tf.io.FixedLenFeature((28, 28), tf.float32),
      'label': tf.io.FixedLenFeature((), tf.int64),
    },
    synthetic=tff.simulation.datasets.emnist.get_synthetic,
  )


def _to_examples(largest: int, features: client_files.Features) -> arrays.Split:
  labels = arrays.checked_integers('label', features['label'], largest)
  return arrays.Split(features['pixels'][..., np.newaxis], labels.astype(np.int32))


def load_data(
  data_dir: str | None, only_digits: bool
) -> tuple[client_files.FileClientData, arrays.Split]:
  """The training examples by writer, read on demand, and the test examples of all writers.

  x: float32 [num_examples, 28, 28, 1] in [0, 1]; y: int32 [num_examples], digits first, then
  upper and lower case. Errors: as `TffFiles.open`.
  """
  to_examples = functools.partial(_to_examples, NUM_CLASSES[only_digits] - 1)
  train, test = (
    client_files.FileClientData(files(only_digits).open(data_dir, part), to_examples)
    for part in ('train', 'test')
  )
  return train, test.pooled()
