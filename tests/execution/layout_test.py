import gc

import numpy as np
import pytest

from tff_lowrank.execution import cohort as cohort_lib
from tff_lowrank.execution import layout
from tff_lowrank.execution import sequences


def batches(*counts):
  return [sequences.Batches([np.full([n, 2], n, np.float32)], None) for n in counts]


def laid_out_on_cpu():
  (device,) = cohort_lib.find_devices(['CPU:0'])
  return layout.LaidOut(device.memory)


def test_batches_lie_end_to_end_in_few_shapes(monkeypatch):
  of_clients = batches(3, 1, 2)
  monkeypatch.setattr(np, 'empty', lambda shape, dtype: np.full(shape, np.nan, dtype))
  arrays = laid_out_on_cpu().arrays(of_clients, 4, False)
  bounds, laid_out = map(np.asarray, arrays)
  assert bounds.tolist() == [0, 3, 4, 6, 0]
  assert laid_out.shape == (8, 2) and not laid_out[6:].any()
  for k, client in enumerate(of_clients):
    np.testing.assert_array_equal(laid_out[bounds[k] : bounds[k + 1]], client.full[0])


def test_the_same_clients_are_laid_out_once_and_not_kept_for_ever():
  laid_out = laid_out_on_cpu()
  of_clients = batches(3, 1)
  first = laid_out.arrays(of_clients, 2, False)
  assert laid_out.arrays(of_clients, 2, False) is first
  assert laid_out.arrays(of_clients[::-1], 2, False) is not first
  del of_clients
  gc.collect()
  assert not laid_out._kept


class Sequence:
  """As much of a sequence as a layout asks for."""

  def __init__(self, batches):
    self.batches = lambda: batches


@pytest.mark.parametrize(
  'counts,num_steps,capacity,total', [((3, 3, 3), 3, 3, 9), ((3, 1, 3), None, 4, 8)]
)
def test_exact_where_all_have_as_many_batches(counts, num_steps, capacity, total):
  clients = [[Sequence(b)] for b in batches(*counts)]
  assert layout.num_steps(clients) == num_steps
  cohort = layout.cohort('key', clients, laid_out_on_cpu(), num_steps)
  assert (cohort.num_steps, cohort.capacity, cohort.num_clients) == (num_steps, capacity, 3)
  assert cohort.arrays[0].shape == (capacity + 1,)
  assert cohort.arrays[1].shape == (total, 2)
  assert cohort.is_full == (num_steps is not None)


def test_smaller_last_batches_are_stacked():
  tails = [np.full([1, 2], k, np.float32) for k in range(3)]
  of_clients = [sequences.Batches([np.zeros([2, 4, 2], np.float32)], [t]) for t in tails]
  cohort = layout.cohort('key', [[Sequence(b)] for b in of_clients], laid_out_on_cpu())
  np.testing.assert_array_equal(cohort.arrays[2], np.stack([*tails, np.zeros([1, 2])]))
