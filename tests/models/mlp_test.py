from tff_lowrank import models


def test_parameter_count():
  # 64 * 64 + 64 and 64 * 10 + 10.
  model = models.build_mlp((8, 8, 1))
  assert model.count_params() == 4810
  # 4 * 3 + 3 and 3 * 5 + 5 and 5 * 2 + 2.
  assert models.build_mlp((2, 2), (3, 5), 2).count_params() == 47
