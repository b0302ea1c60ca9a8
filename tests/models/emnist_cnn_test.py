import pytest

from tff_lowrank import models


# Convolutions 10 * 32 and 289 * 64, dense 9,217 * 128 and 129 * classes.
@pytest.mark.parametrize('num_classes, count', [(10, 1_199_882), (62, 1_206_590)])
def test_counts(num_classes, count):
  model = models.build_emnist_cnn(num_classes)
  assert model.count_params() == count == 320 + 18_496 + 1_179_776 + 129 * num_classes
  assert model.output_shape == (None, num_classes)
