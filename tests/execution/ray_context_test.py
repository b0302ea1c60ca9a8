"""Computations on a cluster of this machine, against the local context."""

import collections
import os
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tests.execution import clusters
from tff_lowrank import execution
from tff_lowrank.execution import ray_pool
from tff_lowrank.execution import stored

pytestmark = clusters.needs_ray


@pytest.fixture(scope='module')
def context():
  created = execution.create_ray_context(num_workers=2)
  yield created
  created.close()


@pytest.fixture
def on_ray(context):
  """The context, with all of its workers, in place of the local one."""
  clusters.wait_for_workers(context, 2)
  with context.installed():
    yield context


def locally(function):
  with execution.create_local_context(max_clients_in_flight=2):
    return function()


def assert_equal(a, b):
  """To the bit."""
  a, b = (
    tff.structure.flatten(tff.structure.from_container(a, recursive=True)),
    (tff.structure.flatten(tff.structure.from_container(b, recursive=True))),
  )
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def test_federated_averaging_is_equal_to_the_bit(on_ray, rng):
  process, _, data = cases.federated_averaging(rng)

  def train():
    state = process.initialize()
    for _ in range(3):
      output = process.next(state, data)
      state = output.state
    return state.global_model_weights.trainable, output.metrics['client_work']['train']

  weights, metrics = train()
  expected_weights, expected_metrics = locally(train)
  assert_equal(weights, expected_weights)
  assert_equal(metrics, expected_metrics)


def test_a_recurrent_model_of_variables_is_equal_to_the_bit(on_ray, rng):
  process, data = cases.lstm_averaging(rng)

  def train():
    return process.next(process.initialize(), data).state.global_model_weights.trainable

  assert_equal(train(), locally(train))


_VECTOR = tff.TensorType(np.float32, (3,))


@tff.federated_computation(tff.FederatedType(_VECTOR, tff.CLIENTS))
def mean_and_echo(values):
  return tff.federated_mean(values), tff.federated_sum(values), values


@pytest.mark.parametrize('count', [0, 1, 3, 130, 512, 513, 1200])
def test_sums_are_equal_to_the_bit_whatever_the_number_of_blocks(on_ray, rng, count):
  values = list(
    (rng.normal(size=(count, 3)) * 10.0 ** rng.integers(-6, 7, (count, 1))).astype('f4')
  )
  if count == 0:
    assert_equal(mean_and_echo(values), locally(lambda: mean_and_echo(values)))
    return
  before = on_ray.traffic.received
  found = mean_and_echo(values)
  received = on_ray.traffic.received - before
  assert_equal(found, locally(lambda: mean_and_echo(values)))
  if count > 512:  # More than 16 blocks: workers have merged them, and one came here.
    assert received < 2 * (3 + 1 + 3) * 4


def test_what_is_not_a_sum_is_accumulated_client_by_client(on_ray):
  @tff.tensorflow.computation(np.int64, np.int64)
  def accumulate(total, value):
    return 10 * total + value

  @tff.tensorflow.computation(np.int64, np.int64)
  def merge(a, b):
    return a + b

  @tff.tensorflow.computation(np.int64)
  def report(total):
    return total

  @tff.federated_computation(tff.FederatedType(np.int64, tff.CLIENTS))
  def digits(values):
    return tff.federated_aggregate(values, np.int64(0), accumulate, merge, report)

  assert digits([np.int64(d) for d in (3, 1, 4, 1, 5, 9)]) == 314159


def test_data_sets_mean_what_they_mean_here(on_ray):
  @tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS))
  def weave_all(numbers):
    return tff.federated_map(cases.weave, numbers)

  variable = tf.Variable(5, dtype=tf.int64)
  data = [
    tf.data.Dataset.range(4),
    tf.data.Dataset.range(6).shuffle(6, seed=1),
    tf.data.Dataset.range(6).shuffle(6, seed=1, reshuffle_each_iteration=False),
    tf.data.Dataset.range(3).map(lambda n: n + variable),
    tf.data.Dataset.from_generator(
      lambda: iter([7, 1]), output_signature=tf.TensorSpec([], tf.int64)
    ),
    tf.data.Dataset.range(0),
    [np.int64(4), np.int64(2)],
  ]
  for _ in range(2):
    assert weave_all(data) == locally(lambda: weave_all(data))
  variable.assign(6)
  assert weave_all(data) == locally(lambda: weave_all(data))


def _open_large(bytes_of_client, path):
  def open_client(client_id, round_num):
    with open(path, 'a') as file:
      file.write(f'{os.getpid()}\n')
    return tf.data.Dataset.from_tensors(
      tf.fill([bytes_of_client // 8], tf.constant(int(client_id) + round_num, tf.int64))
    )

  return open_client


_NUMBERS = tff.SequenceType(tff.TensorType(np.int64, (None,)))


@tff.tensorflow.computation(_NUMBERS)
def first_and_size(batches):
  return batches.reduce(np.int64(0), lambda total, b: total + b[0] + tf.size(b, tf.int64))


@tff.federated_computation(tff.FederatedType(_NUMBERS, tff.CLIENTS))
def sum_of_firsts(data):
  return tff.federated_sum(tff.federated_map(first_and_size, data))


def test_data_go_by_name(on_ray, tmp_path):
  source = execution.DataSource(_open_large, 1 << 20, str(tmp_path / 'opened'))
  data = [source.describe(str(k), 100) for k in range(9)]
  before = on_ray.traffic.sent
  assert sum_of_firsts(data) == sum(range(9)) + 900 + 9 * (1 << 17)
  assert on_ray.traffic.sent - before < 100
  pids = {int(line) for line in (tmp_path / 'opened').read_text().split()}
  assert pids <= {w.pid for w in on_ray.workers} and os.getpid() not in pids


_MEMORY = tff.TensorType(np.float32, (stored.MIN_BYTES // 4,))


@tff.tensorflow.computation(_MEMORY, np.float32)
def remember(memory, value):
  return collections.OrderedDict(memory=memory + value, small=value * 2)


@tff.federated_computation(
  tff.FederatedType(_MEMORY, tff.CLIENTS), tff.FederatedType(np.float32, tff.CLIENTS)
)
def remember_all(memory, values):
  kept = tff.federated_map(remember, (memory, values))
  pick = tff.tensorflow.computation(lambda x: x['memory'], kept.type_signature.member)
  small = tff.tensorflow.computation(lambda x: x['small'], kept.type_signature.member)
  return tff.federated_map(pick, kept), tff.federated_map(small, kept)


@tff.tensorflow.computation
def nothing_remembered():
  return tf.zeros(_MEMORY.shape)


def test_client_memory_stays_on_the_cluster(on_ray):
  memory = [nothing_remembered()] * 5
  values = [np.float32(k) for k in range(5)]
  before = on_ray.traffic.received, on_ray.traffic.sent
  with stored.client_values_stay():
    for _ in range(3):
      memory, small = remember_all(memory, values)
  assert all(isinstance(m, stored.StoredArray) for m in memory)
  assert [float(s) for s in small] == [0, 2, 4, 6, 8]
  assert on_ray.traffic.received == before[0]
  # The first memory is one array, which is sent once.
  assert on_ray.traffic.sent - before[1] < 1.1 * stored.MIN_BYTES
  for k in range(5):
    np.testing.assert_array_equal(np.asarray(memory[k]), np.full(_MEMORY.shape, 3 * k, np.float32))
  # Without asking, results are arrays, of stored arguments as well.
  found, _ = remember_all(memory, values)
  assert all(isinstance(m, np.ndarray) for m in found)
  np.testing.assert_array_equal(found[4], np.full(_MEMORY.shape, 16, np.float32))
  # The local context takes them, too.
  assert_equal(found, locally(lambda: remember_all(memory, values)[0]))


def test_a_stored_value_of_another_shape_is_refused(on_ray):
  with stored.client_values_stay():
    memory, _ = remember_all([np.zeros(_MEMORY.shape, np.float32)], [np.float32(1)])
  with pytest.raises(TypeError, match='Expected a value of type float32.3.*StoredArray'):
    mean_and_echo(memory)


@tff.tensorflow.computation(np.int32)
def checked(value):
  with tf.control_dependencies([tf.debugging.assert_less(value, 3, message='too large')]):
    return tf.identity(value)


@tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
def sum_of_checked(values):
  return tff.federated_sum(tff.federated_map(checked, values))


def test_a_client_s_error_names_the_client_and_the_worker(on_ray):
  workers = {w.pid for w in on_ray.workers}
  with pytest.raises(execution.ClientError) as caught:
    sum_of_checked([np.int32(k) for k in (0, 1, 9, 2, 1)])
  text = str(caught.value)
  assert text.startswith('Client 3 of 5 failed in the computation') and 'too large' in text
  assert 'It ran on worker' in text and 'on node' in text
  assert isinstance(caught.value.__cause__, tf.errors.InvalidArgumentError)
  # Nothing is lost by it.
  assert sum_of_checked([np.int32(1)] * 5) == 5
  assert {w.pid for w in on_ray.workers} == workers


def test_data_that_cannot_be_opened_are_a_client_s_error(on_ray):
  def refuse():
    def open_client(client_id, round_num):
      raise FileNotFoundError(2, 'No such file', f'{client_id}.csv')

    return open_client

  source = execution.DataSource(refuse)
  with pytest.raises(execution.ClientError, match='Client 1 of 2 failed.*bob.csv') as caught:
    sum_of_firsts([source.describe('bob', 1), source.describe('eve', 1)])
  assert isinstance(caught.value.__cause__, FileNotFoundError)


def _open_slowly(seconds):
  def open_client(client_id, round_num):
    time.sleep(seconds)
    return tf.data.Dataset.from_tensors(tf.constant([int(client_id)], tf.int64))

  return open_client


@pytest.mark.parametrize('moment', [0.0, 0.5, 0.9])  # The round takes 1.2 s or more.
def test_a_worker_that_is_killed_in_mid_round_changes_nothing(on_ray, moment):
  source = execution.DataSource(_open_slowly, 0.3)
  data = [source.describe(str(k), 1) for k in range(8)]
  victim, losses = on_ray.workers[0], on_ray.losses
  timer = threading.Timer(moment, os.kill, (victim.pid, signal.SIGKILL))
  timer.start()
  assert sum_of_firsts(data) == sum(range(8)) + 8
  timer.join()
  if moment:
    assert on_ray.losses == losses + 1
  clusters.wait_for_workers(on_ray, 2)  # Another one takes its place.
  assert victim.pid not in {w.pid for w in on_ray.workers}


def _kill_worker(safe_pid):
  def open_client(client_id, round_num):
    if client_id == 'deadly' and os.getpid() != safe_pid:
      os.kill(os.getpid(), signal.SIGKILL)
    return tf.data.Dataset.from_tensors(tf.constant([1], tf.int64))

  return open_client


def test_a_client_that_kills_its_workers_ends_the_round_with_a_sentence(on_ray):
  source = execution.DataSource(_kill_worker, os.getpid())
  data = [source.describe(name, 1) for name in ('a', 'b', 'deadly', 'c', 'd')]
  expected = '4 workers were lost while they ran the clients 3 to 4 of 5'
  with pytest.raises(ray_pool.WorkersLostError, match=expected):
    sum_of_firsts(data)
  clusters.wait_for_workers(on_ray, 2)
  assert sum_of_firsts([source.describe('a', 1)] * 3) == 6


def test_two_threads_share_the_workers(on_ray, rng):
  values = [list(rng.normal(size=(600, 3)).astype('f4')) for _ in range(3)]
  found = {}

  def run(k):
    with on_ray.installed():
      found[k] = mean_and_echo(values[k])

  threads = [threading.Thread(target=run, args=(k,)) for k in range(3)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for k in range(3):
    assert_equal(found[k], locally(lambda k=k: mean_and_echo(values[k])))


def test_explain_says_how_it_runs(on_ray, capsys):
  execution.explain(sum_of_checked)
  assert 'clients run in' in capsys.readouterr().out


def test_arguments_are_checked_before_ray_is_asked():
  with pytest.raises(ValueError, match='num_workers'):
    execution.create_ray_context(num_workers=0)
  with pytest.raises(ValueError, match='compile'):
    execution.create_ray_context(compile='fast')
  with pytest.raises(ValueError, match='at most one GPU'):
    execution.create_ray_context(resources_per_worker={'CPU': 1, 'GPU': 2})
