"""VGG16: counts of the paper, and its shape."""

import pytest
import tensorflow as tf

from tff_lowrank import models


@pytest.mark.parametrize('classes, count', [(10, 15_253_578), (100, 15_299_748)])
def test_original_counts(classes, count):
  # Convolutions 14,714,688 with biases, normalisation 2 * 4224, dense 2 * (512 * 512 + 512) and
  # 513 * classes.
  assert 14_714_688 + 8448 + 525_312 + 513 * classes == count
  assert models.build_vgg16(num_classes=classes).count_params() == count


@pytest.mark.parametrize(
  'gamma, millions',
  zip(
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    (1.55, 2.33, 3.31, 4.45, 5.79, 7.33, 9.01, 10.90, 12.92),
    strict=True,
  ),
)
def test_counts_of_table_5(gamma, millions):
  count = models.build_vgg16(family='fedpara', gamma=gamma).count_params()
  # Rounded numbers; the farthest is 4.45, printed for what is 4,439,576 here.
  assert abs(count / 1e6 - millions) < 0.0105
  more = models.build_vgg16(num_classes=100, family='fedpara', gamma=gamma).count_params()
  assert more - count == 46_170


def test_low_rank_is_of_equal_budget():
  for gamma in (0.1, 0.5, 0.9):
    fedpara = models.build_vgg16(family='fedpara', gamma=gamma).count_params()
    low_rank = models.build_vgg16(family='low_rank', gamma=gamma).count_params()
    assert abs(low_rank / fedpara - 1) < 0.003


def test_heads_are_plain_and_small_versions_run():
  model = models.build_vgg16(
    (32, 32, 1), 7, family='fedpara', gamma=0.1, width_multiplier=0.125, groups=4
  )
  dense = [layer for layer in model.layers if isinstance(layer, tf.keras.layers.Dense)]
  assert [layer.units for layer in dense] == [64, 64, 7]
  assert all(type(layer) is tf.keras.layers.Dense for layer in dense)
  assert model(tf.zeros([2, 32, 32, 1])).shape == (2, 7)
