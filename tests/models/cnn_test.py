import pytest

from tff_lowrank import models


@pytest.mark.parametrize('shape, count', [((28, 28, 1), 431_080), ((32, 32, 3), 657_080)])
def test_parameter_count(shape, count):
  # 28x28x1: 520 + 25,050 + 800 * 500 + 500 + 5,010. 32x32x3: 1,520 + 25,050 + 1250 * 500 + 500
  # + 5,010.
  model = models.build_cnn(shape)
  assert model.count_params() == count
  assert model.output_shape == (None, 10)


def test_factorised_count():
  # Convolutions at gamma 1: 1 -> 20 at rank 2, 2 * 2 * 21 + 2 * 4 * 25 = 284; 20 -> 50 at rank 21,
  # 2 * 21 * 70 + 2 * 441 * 25 = 24,990. Dense ones at gamma 0: 800 -> 500 at rank 23,
  # 2 * 23 * 1300; 500 -> 10 at rank 4, 2 * 4 * 510; 580 biases.
  model = models.build_cnn(family='fedpara', gamma=0.0)
  assert model.count_params() == 284 + 24_990 + 59_800 + 4080 + 580
