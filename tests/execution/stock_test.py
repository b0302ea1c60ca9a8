import time

import numpy as np
import psutil
import tensorflow_federated as tff

from tff_lowrank import execution


def workers():
  return [
    child
    for child in psutil.Process().children()
    if child.name() == 'worker_binary' and child.status() != psutil.STATUS_ZOMBIE
  ]


def test_the_worker_ends_with_the_block():
  before = workers()
  add = tff.tensorflow.computation(lambda x: x + 1, np.int32)
  with execution.stock_context():
    assert add(1) == 2
    assert len(workers()) == len(before) + 1
  deadline = time.monotonic() + 10
  while len(workers()) > len(before) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert len(workers()) == len(before)
