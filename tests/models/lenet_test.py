import pytest

from tff_lowrank import models


@pytest.mark.parametrize('shape, count', [((32, 32, 3), 62_006), ((28, 28, 1), 44_426)])
def test_counts(shape, count):
  # 32x32x3: 456 + 2416 + 400 * 120 + 120 + 10,164 + 850; 28x28x1: 156, 2416, 256 * 120 + 120.
  assert models.build_lenet5(shape).count_params() == count


def test_factorised_count():
  # gamma 0: ranks 2 (3 -> 6, 2 * 2 * 9 + 2 * 4 * 25 = 236), 3 (6 -> 16, 2 * 3 * 22 + 2 * 9 * 25 =
  # 582), 11 (400 -> 120, 2 * 11 * 520), 10 (120 -> 84, 2 * 10 * 204), 4 (84 -> 10, 2 * 4 * 94).
  factors = 236 + 582 + 11_440 + 4080 + 752
  biases = 6 + 16 + 120 + 84 + 10
  model = models.build_lenet5(family='fedpara', gamma=0.0)
  assert model.count_params() == factors + biases
