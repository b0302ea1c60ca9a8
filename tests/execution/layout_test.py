import gc

import numpy as np

from tff_lowrank.execution import layout
from tff_lowrank.execution import sequences


def batches(*counts):
  return [sequences.Batches([np.full([n, 2], n, np.float32)], None) for n in counts]


def test_batches_lie_end_to_end_in_few_shapes():
  of_clients = batches(3, 1, 2)
  bounds, laid_out = layout.LaidOut().arrays(of_clients, 4)
  assert bounds.tolist() == [0, 3, 4, 6, 0]
  assert laid_out.shape == (8, 2)
  for k, client in enumerate(of_clients):
    np.testing.assert_array_equal(laid_out[bounds[k] : bounds[k + 1]], client.full[0])


def test_the_same_clients_are_laid_out_once_and_not_kept_for_ever():
  laid_out = layout.LaidOut()
  of_clients = batches(3, 1)
  first = laid_out.arrays(of_clients, 2)
  assert laid_out.arrays(of_clients, 2) is first
  assert laid_out.arrays(of_clients[::-1], 2) is not first
  del of_clients
  gc.collect()
  assert not laid_out._kept
