"""The embedded data set: handwritten digits from scikit-learn.

1,797 real 8x8 grey images of 43 writers' digits, the test part of UCI's "Optical Recognition
of Handwritten Digits" (Alpaydin and Kaynak, 1998; CC BY 4.0). No download, no writer labels.
"""

import numpy as np
from sklearn import datasets as sklearn_datasets
from sklearn import model_selection
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import partition

NUM_TEST = 360
MAX_VALUE = 16


def load_arrays() -> arrays.Arrays:
  """1,437 training and 360 test images, the same in every call; the split is stratified.

  x: uint8 [num_examples, 8, 8, 1] in 0..16; y: int32 [num_examples].
  """
  bunch = sklearn_datasets.load_digits()
  x, y = bunch.images.astype(np.uint8)[..., np.newaxis], bunch.target.astype(np.int32)
  train, test = model_selection.train_test_split(
    np.arange(len(y)), test_size=NUM_TEST, stratify=y, random_state=0
  )
  return arrays.Arrays(arrays.Split(x[train], y[train]), arrays.Split(x[test], y[test]))


def load_data(
  num_clients: int = 20, partitioner: partition.Partitioner = partition.iid, seed: int = 0
) -> tuple[tff.simulation.datasets.ClientData, arrays.Split]:
  """The training images, partitioned over clients, and the central test images."""
  train, test = load_arrays()
  return arrays.partitioned(train, partitioner(train.y, num_clients, seed)), test
