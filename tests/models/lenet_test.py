from tff_lowrank import models


def test_parameters_by_hand():
  # 456 + 2,416 + 48,120 + 10,164 + 850.
  model = models.build_lenet5()
  assert model.count_params() == 62_006
  assert model.output_shape == (None, 10)
  assert models.build_lenet5(100).count_params() == 62_006 - 850 + 84 * 100 + 100
