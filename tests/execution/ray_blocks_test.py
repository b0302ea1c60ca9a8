"""How the blocks of a stage come back from workers that are slow, or lost."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import clusters
from tff_lowrank import execution
from tff_lowrank.execution import cohort

pytestmark = clusters.needs_ray

_NUMBERS = tff.SequenceType(np.float32)


@tff.tensorflow.computation(_NUMBERS)
def total(numbers):
  return numbers.reduce(np.float32(0), lambda a, b: a + b)


@tff.federated_computation(tff.FederatedType(_NUMBERS, tff.CLIENTS))
def mean_of_totals(numbers):
  return tff.federated_mean(tff.federated_map(total, numbers))


@tff.tensorflow.computation(_NUMBERS)
def large(numbers):
  """More than travels with a message."""
  return tf.linspace(0.0, 1.0, 40000) * numbers.reduce(np.float32(0), lambda a, b: a + b)


@tff.federated_computation(tff.FederatedType(_NUMBERS, tff.CLIENTS))
def mean_of_large(numbers):
  return tff.federated_mean(tff.federated_map(large, numbers))


def logging_source(path, slow=()):
  """Each client's data set; a line in a file for each that is opened; some take their time."""

  def open_client(client_id, round_num):
    with open(path, 'a') as file:
      file.write(f'{client_id} {os.getpid()}\n')
    if client_id in slow:
      time.sleep(0.02)
    rng = np.random.default_rng(int(client_id))
    return tf.data.Dataset.from_tensor_slices(rng.normal(size=5).astype(np.float32))

  return open_client


def opened(path):
  return [line.split() for line in path.read_text().splitlines()]


def bits(value):
  return np.asarray(value).tobytes()


def pids_in_order(path):
  return list(dict.fromkeys(pid for _, pid in opened(path)))


@pytest.fixture(scope='class')
def context():
  with execution.create_ray_context(num_workers=2) as created:
    yield created


def _open_stubbornly(folder):
  def open_client(client_id, round_num):
    if client_id == 'fail':
      while not os.path.exists(os.path.join(folder, 'sleeping')):
        time.sleep(0.05)
      raise ValueError('At once.')
    open(os.path.join(folder, 'sleeping'), 'w').close()
    time.sleep(1000)

  return open_client


def _open_numbers():
  return lambda client_id, round_num: tf.data.Dataset.from_tensor_slices(np.float32([1, 2]))


class TestOnOneNode:
  def test_the_longest_blocks_go_first(self, context, tmp_path):
    source = execution.DataSource(logging_source, str(tmp_path / 'log'))
    # Of 128 clients, four blocks; the third has by far the most to do, then the second.
    steps = [1] * 32 + [5] * 32 + [100] * 32 + [2] * 32
    mean_of_totals([source.describe(str(k), 1, steps[k]) for k in range(128)])
    begun = [int(c) // 32 for c, _ in opened(tmp_path / 'log')]
    order = sorted(range(4), key=begun.index)
    assert set(order[:2]) == {1, 2} and order[2:] == [3, 0]

  @pytest.mark.parametrize('slow', [range(0, 32), range(600, 640)])
  def test_slow_workers_change_nothing_and_results_wait_for_their_turn(
    self, context, tmp_path, slow
  ):
    slow = {str(k) for k in slow}
    source = execution.DataSource(logging_source, str(tmp_path / 'log'), slow)
    data = [source.describe(str(k), 1) for k in range(640)]
    found = mean_of_totals(data)
    with execution.create_local_context():
      assert bits(mean_of_totals(data)) == bits(found)

  def test_a_worker_that_does_not_stop_when_told_to_is_ended(self, context, tmp_path):
    stubborn = execution.DataSource(_open_stubbornly, str(tmp_path))
    clusters.wait_for_workers(context, 2)
    pids = {w.pid for w in context.workers}
    # The first client fails at once; the other one sleeps where nothing can wake it.
    with pytest.raises(execution.ClientError, match='Client 1 of 2 failed.*At once'):
      mean_of_totals([stubborn.describe('fail', 1), stubborn.describe('sleep', 1)])
    clusters.wait_for_workers(context, 2)
    assert len(pids - {w.pid for w in context.workers}) == 1

  def test_a_worker_that_died_while_it_was_idle_is_noticed(self, context):
    clusters.wait_for_workers(context, 2)
    for worker in context.workers:
      os.kill(worker.pid, signal.SIGKILL)
    source = execution.DataSource(_open_numbers)
    assert mean_of_totals([source.describe(str(k), 1) for k in range(8)]) == 3.0


def test_partial_aggregates_that_are_lost_are_made_again(tmp_path):
  """The node of the only worker is ended when most of 40 blocks are done and merged in part."""
  log = tmp_path / 'log'
  source = execution.DataSource(logging_source, str(log), {str(k) for k in range(0, 1280, 8)})
  data = [source.describe(str(k), 1) for k in range(40 * cohort.partition(1280)[0].stop)]
  with execution.create_local_context():
    expected = bits(mean_of_large(data))
  log.unlink()
  with clusters.of_nodes(1, 1) as cluster:
    with execution.create_ray_context(cluster.address, num_workers=1) as context:

      def end_node():
        clusters.wait_until(lambda: log.exists() and len(opened(log)) > 1000)
        clusters.end_node_of(cluster, context.workers[0])

      thread = threading.Thread(target=end_node)
      thread.start()
      found = mean_of_large(data)
      thread.join()
      assert context.losses >= 1
  assert bits(found) == expected
  # What the first worker had merged went with its node, and was made again by the other one.
  first, second = ({c for c, p in opened(log) if p == pid} for pid in pids_in_order(log))
  assert len(first) > 1000 and second == {str(k) for k in range(1280)}
