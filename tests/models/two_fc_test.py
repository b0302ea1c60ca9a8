import pytest

from tff_lowrank import layers
from tff_lowrank import models


def _count_global(**kwargs):
  model = models.build_two_fc(family='pfedpara', gamma=0.5, **kwargs)
  sizes = [v.shape.num_elements() for v in model.trainable_variables]
  mask = layers.personal_mask(model)
  return sum(n for n, personal in zip(sizes, mask, strict=True) if not personal)


@pytest.mark.parametrize(
  'classes, original, shared',
  # 784 * 256 + 256 + 257 * classes. Global, at gamma 0.5: 56 * 1040 + 256 for the first layer;
  # 4 * 266 + 10 and 16 * 318 + 62 for the second.
  [(10, 203_530, 59_570), (62, 216_894, 63_646)],
)
def test_counts_and_what_travels(classes, original, shared):
  assert models.build_two_fc(num_classes=classes).count_params() == original
  assert _count_global(num_classes=classes) == shared
  # The paper's 3.4 times fewer.
  assert round(original / shared, 1) == 3.4


def test_rank_of_the_head():
  # Of 10 in place of gamma's 4: 3.3 times fewer numbers travel.
  assert _count_global(head_rank=10) == 56 * 1040 + 256 + 10 * 266 + 10
  low_rank = models.build_two_fc(family='low_rank', gamma=0.15, head_rank=10)
  assert low_rank.count_params() == 56 * 1040 + 256 + 10 * 266 + 10
  assert models.build_two_fc(head_rank=10).count_params() == 203_530
