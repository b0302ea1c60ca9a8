import itertools

import pytest

from tff_lowrank.execution import cohort


@pytest.mark.parametrize('num_clients', [0, 1, 2, 4, 5, 50, 128, 129, 500])
def test_blocks_cover_the_cohort_in_order(num_clients):
  blocks = cohort.partition(num_clients)
  assert list(itertools.chain(*blocks)) == list(range(num_clients))
  assert all(1 <= len(block) <= 32 for block in blocks)
  assert len(blocks) >= min(num_clients, 4) or num_clients < 8


def test_devices():
  (device,) = cohort.find_devices(['CPU:0'])
  assert device.is_cpu and device.tensorflow == '/device:CPU:0'
  assert device.xla().platform == 'cpu'
  for names in ([], ['CPU:7'], ['cuda']):
    with pytest.raises(ValueError, match='`devices` must name some of'):
      cohort.find_devices(names)
