import numpy as np
from sklearn import datasets as sklearn_datasets

from tff_lowrank.datasets import digits
from tff_lowrank.datasets import partition


def test_split_is_all_of_the_data_once():
  train, test = digits.load_arrays()
  assert train.x.shape == (1437, 8, 8, 1) and test.x.shape == (360, 8, 8, 1)
  assert train.x.dtype == np.uint8 and train.y.dtype == np.int32
  assert train.x.max() == digits.MAX_VALUE
  both = np.concatenate([train.x, test.x]).reshape(-1, 64)
  whole = sklearn_datasets.load_digits()
  assert sorted(map(bytes, both)) == sorted(map(bytes, whole.data.astype(np.uint8)))
  # Stratified: each class keeps its share.
  np.testing.assert_allclose(
    np.bincount(test.y) / 360, np.bincount(whole.target) / 1797, atol=0.003
  )


def test_images_keep_their_labels():
  whole = sklearn_datasets.load_digits()
  label_of = {bytes(x.astype(np.uint8)): y for x, y in zip(whole.data, whole.target, strict=True)}
  train, _ = digits.load_arrays()
  for x, y in zip(train.x, train.y, strict=True):
    assert label_of[bytes(x)] == y


def test_load_data_partitions_the_training_part():
  train, test = digits.load_data(5, partition.parse('shards:2'), seed=3)
  assert len(train.client_ids) == 5
  assert sum(train.num_examples(c) for c in train.client_ids) == 1437
  assert len(test.y) == 360
