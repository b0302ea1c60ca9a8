from tff_lowrank import models


def test_parameter_count():
  # 64 * 64 + 64 and 64 * 10 + 10.
  model = models.build_mlp((8, 8, 1))
  assert model.count_params() == 4810
  # 4 * 3 + 3 and 3 * 5 + 5 and 5 * 2 + 2.
  assert models.build_mlp((2, 2), (3, 5), 2).count_params() == 47


def test_factorised_count():
  # gamma 0: 64 -> 64 at rank 8, 2 * 8 * 128 = 2048 of 4096; 64 -> 10 at rank 4, 2 * 4 * 74 = 592 of
  # 640; 74 biases.
  assert models.build_mlp((8, 8, 1), family='fedpara', gamma=0.0).count_params() == 2714
