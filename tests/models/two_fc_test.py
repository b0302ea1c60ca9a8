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


def test_plain_head_travels_whole():
  assert _count_global(plain_head=True) == 56 * 1040 + 256 + 257 * 10  # 3.3 times fewer.
