import pytest

from tff_lowrank import models


@pytest.mark.parametrize('shape, count', [((28, 28, 1), 431_080), ((32, 32, 3), 657_080)])
def test_parameter_count(shape, count):
  # 28x28x1: 520 + 25,050 + 800 * 500 + 500 + 5,010. 32x32x3: 1,520 + 25,050 + 1250 * 500 + 500
  # + 5,010.
  model = models.build_cnn(shape)
  assert model.count_params() == count
  assert model.output_shape == (None, 10)
