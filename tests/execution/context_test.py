import asyncio
import collections
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import NamedTuple
import weakref

import numpy as np
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tff_lowrank import execution

MODES = ('tensorflow', 'xla', 'auto')
STRING = tff.TensorType(np.str_)


def numbers(*values):
  return tf.data.Dataset.from_tensor_slices(np.array(values, np.int64))


@pytest.mark.parametrize('mode', MODES)
def test_federated_averaging_equals_numpy(rng, mode):
  process, examples, data = cases.federated_averaging(rng)
  with execution.create_local_context(compile=mode):
    start = process.get_model_weights(process.initialize()).trainable
    weights, _ = cases.run_rounds(process, data, 3)
  for got, wanted in zip(weights, cases.numpy_rounds(start, examples, 3), strict=True):
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize('build', [cases.federated_averaging, cases.lstm_averaging])
def test_equals_the_stock_context(rng, build):
  process, *_, data = build(rng)
  with execution.stock_context():
    wanted, wanted_metrics = cases.run_rounds(process, data, 2)
  for mode in MODES:
    with execution.create_local_context(compile=mode):
      weights, metrics = cases.run_rounds(process, data, 2)
    for a, b in zip(weights, wanted, strict=True):
      np.testing.assert_allclose(a, b, atol=2e-6, err_msg=mode)
    wanted_train, train = (m['client_work']['train'] for m in (wanted_metrics, metrics))
    assert train.keys() == wanted_train.keys()
    for name, value in wanted_train.items():
      np.testing.assert_allclose(train[name], value, rtol=1e-5, err_msg=mode)


def test_shuffles_repeats_and_passes_as_the_stock_context():
  by_client = tff.federated_computation(
    lambda x: tff.federated_map(cases.weave, x),
    tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS),
  )
  data = [
    numbers(1, 2, 3, 4, 5).shuffle(5, seed=3, reshuffle_each_iteration=False),
    numbers(1, 2).repeat(3),
    numbers(1, 2, 3).repeat().take(5),
    numbers(3).filter(lambda x: x > 3),
    numbers(5, 6, 7).map(lambda x: x + 1).prefetch(2),
    numbers(1, 2, 3, 4).interleave(lambda x: tf.data.Dataset.from_tensors(x).repeat(2)),
  ]
  with execution.stock_context():
    wanted = [by_client(data), by_client(data)]
  with execution.create_local_context():
    assert [by_client(data), by_client(data)] == wanted


def test_reshuffling_starts_anew_in_each_call(rng):
  by_client = tff.federated_computation(
    lambda x: tff.federated_map(cases.weave, x),
    tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS),
  )
  elements = numbers(1, 2, 3, 4, 5)
  data = [elements.shuffle(5, seed=3), elements.shuffle(5, seed=4).batch(2).unbatch()]

  def call():
    # The stock runtime runs the two passes in any order.
    return [sorted(passes.values()) for passes in by_client(data)]

  with execution.stock_context():
    wanted = call()
  assert all(len(set(passes)) == 2 for passes in wanted)
  for mode in MODES:
    with execution.create_local_context(compile=mode):
      assert [call(), call()] == [wanted, wanted], mode


def data_that_changes():
  """Data sets of 32 elements that read something, and a function that changes what they read."""
  value = tf.Variable(0, dtype=tf.int64)
  table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, -1)
  python = []

  def assign(number):
    value.assign(number)
    table.insert(tf.range(32, dtype=tf.int64), tf.fill([32], value.read_value()))
    python[:] = [number] * 32

  read = tf.data.Dataset.range(32).map(lambda _: value + 0)
  data = dict(
    variable=read,
    shuffled=read.shuffle(4, seed=1),
    cached=read.cache(),
    branch=tf.data.Dataset.range(32).map(lambda i: tf.cond(i > 3, value.read_value, lambda: value)),
    filtered=tf.data.Dataset.range(32).filter(lambda i: i < value),
    nested=tf.data.Dataset.range(4).flat_map(lambda _: read.take(8)),
    table=tf.data.Dataset.range(32).map(lambda i: tf.ensure_shape(table.lookup(i), [])),
    generated=tf.data.Dataset.from_generator(
      lambda: iter(python), output_signature=tf.TensorSpec([], tf.int64)
    ),
  )
  return data, assign


@pytest.mark.each_once
@pytest.mark.parametrize('name', data_that_changes()[0])
@pytest.mark.parametrize('mode', MODES)
def test_data_sets_are_read_as_they_are_now(mode, name):
  data, assign = data_that_changes()
  other, assign_other = data_that_changes()
  with execution.create_local_context(compile=mode):
    for numbers_now in ((1, 20), (10, 20), (2, 30)):
      assign(numbers_now[0])
      assign_other(numbers_now[1])
      wanted = sum(sum(range(n)) if name == 'filtered' else 32 * n for n in numbers_now)
      assert cases.sum_of_all([data[name], other[name]] * 2) == 2 * wanted


def test_infinite_data_set_is_read_as_far_as_needed():
  @tff.tensorflow.computation(tff.SequenceType(np.int64))
  def first_three(numbers):
    return numbers.take(3).reduce(np.int64(0), lambda a, b: a + b)

  with execution.create_local_context():
    assert first_three(numbers(1, 2).repeat()) == 4


def test_dictionaries_of_features_nested_data_sets_and_strings():
  element = collections.OrderedDict(b=STRING, a=tff.TensorType(np.float32, [2]))

  @tff.tensorflow.computation(tff.SequenceType(element))
  def fold(data):
    def step(state, e):
      return state[0] + e['a'], tf.strings.join([state[1], e['b']])

    return data.reduce((tf.zeros([2]), tf.constant('')), step)

  data = tf.data.Dataset.from_tensor_slices(
    collections.OrderedDict(b=['x', 'yy', ''], a=np.arange(6, dtype=np.float32).reshape(3, 2))
  )

  @tff.tensorflow.computation(tff.SequenceType(np.int64))
  def windows(data):
    return data.window(2).reduce(
      np.int64(0), lambda a, w: 2 * a + w.reduce(np.int64(0), lambda c, d: c + d)
    )

  with execution.create_local_context():
    sums, text = fold(data)
    np.testing.assert_array_equal(sums, [6, 9])
    assert text == b'xyy'
    assert windows(numbers(1, 2, 3)) == 9


class Point(NamedTuple):
  x: np.float32
  y: np.int32


def test_containers_come_back_as_they_are():
  type_spec = tff.types.to_type(
    collections.OrderedDict(p=Point(np.float32, np.int32), empty=(), list=[np.int32, np.int32])
  )
  value = collections.OrderedDict(p=Point(1.5, 2), empty=(), list=[3, 4])
  identity = tff.tensorflow.computation(lambda v: v, type_spec)
  swap = tff.federated_computation(
    lambda v: tff.federated_zip((v[1], v[0])),
    tff.FederatedType((np.int32, STRING), tff.SERVER),
  )
  with execution.create_local_context():
    result = identity(value)
    assert result == value and isinstance(result['p'], Point)
    assert swap((1, 'a')) == (b'a', 1)


def test_sequences_in_and_out_select_and_values_at_clients():
  doubled = tff.tensorflow.computation(lambda d: d.map(lambda x: 2 * x), tff.SequenceType(np.int64))

  @tff.tensorflow.computation(tff.TensorType(np.int32, [4]), np.int32)
  def pick(table, key):
    return table[key]

  @tff.federated_computation(
    tff.FederatedType(tff.TensorType(np.int32, [4]), tff.SERVER),
    tff.FederatedType(tff.TensorType(np.int32, [2]), tff.CLIENTS),
  )
  def select(table, keys):
    top = tff.federated_value(np.int32(4), tff.SERVER)
    return tff.federated_select(keys, top, table, pick)

  with execution.create_local_context():
    assert list(doubled(numbers(1, 2))) == [2, 4]
    assert list(doubled([np.int64(5)])) == [10]
    picked = select([1, 2, 3, 4], [[0, 1], [3, 3]])
  assert [list(s) for s in picked] == [[1, 2], [4, 4]]


def test_no_clients():
  with execution.create_local_context():
    assert cases.sum_of_all([]) == 0


def test_server_and_clients_of_different_stages():
  @tff.tensorflow.computation(np.float32, np.float32)
  def centred(x, mean):
    return (x - mean) ** 2

  @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
  def variance(x):
    mean = tff.federated_broadcast(tff.federated_mean(x))
    return tff.federated_mean(tff.federated_map(centred, (x, mean))), x

  with execution.create_local_context():
    found, back = variance([1.0, 2.0, 6.0])
  np.testing.assert_allclose(found, np.var([1, 2, 6]), rtol=1e-6)
  assert back == [1.0, 2.0, 6.0]


def test_an_error_names_the_client_and_keeps_the_message():
  @tff.tensorflow.computation(tff.SequenceType(np.int64))
  def strict(data):
    def step(a, b):
      with tf.control_dependencies([tf.debugging.assert_less(b, np.int64(3), 'too large')]):
        return a + b

    return data.reduce(np.int64(0), step)

  computation = tff.federated_computation(
    lambda x: tff.federated_sum(tff.federated_map(strict, x)),
    tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS),
  )
  for mode in MODES:
    with execution.create_local_context(compile=mode) as context:
      with pytest.raises(execution.ClientError, match=r'(?s)Client 3 of 4 .*int64\*.*too large'):
        computation([numbers(1), numbers(2), numbers(3), numbers(1)])
      assert computation([numbers(1), numbers(2)]) == 3, context


@pytest.mark.parametrize('mode', ['tensorflow', 'xla'])
def test_results_do_not_depend_on_the_number_of_workers(rng, mode):
  process, _, data = cases.federated_averaging(rng)
  found = []
  for workers in (1, 2, 5):
    with execution.create_local_context(compile=mode, max_clients_in_flight=workers):
      found.append(cases.run_rounds(process, data * 3, 2)[0])
  for other in found[1:]:
    assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def _large_sum(values):
  return tf.reduce_sum(sum(values))


def _large_sum_in_a_loop(values):
  return tf.while_loop(lambda i, _: i < 2, lambda i, s: (i + 1, s + _large_sum(values)), (0, 0.0))[
    1
  ]


LARGE_SUMS = {
  'additions': _large_sum,
  'add_n': lambda values: tf.reduce_sum(tf.add_n(values)),
  'accumulate_n': lambda values: tf.reduce_sum(
    tf.raw_ops.AccumulateNV2(inputs=values, shape=values[0].shape)
  ),
  'loop': _large_sum_in_a_loop,
  'function': tf.function(_large_sum, experimental_attributes={'_noinline': True}),
}


@pytest.mark.parametrize('name', LARGE_SUMS)
def test_clients_side_by_side_share_no_temporary_variables(name):
  # Past 200 MB TensorFlow gives large sums temporary variables, which all threads share.
  vector = tff.TensorType(np.float32, [4_000_000])

  @tff.tensorflow.computation(vector)
  def work(x):
    return LARGE_SUMS[name]([tf.sin(x * float(i)) for i in range(1, 17)])

  computation = tff.federated_computation(
    lambda values: tff.federated_map(work, values), tff.FederatedType(vector, tff.CLIENTS)
  )
  values = [np.full(vector.shape, i, np.float32) for i in range(4)]
  found = []
  for workers in (1, 2):
    with execution.create_local_context(compile='tensorflow', max_clients_in_flight=workers):
      found += [computation(values) for _ in range(2)]
  assert all(each == found[0] for each in found)


@pytest.mark.parametrize(
  'num_rounds, most', [(350, 15e6), pytest.param(1100, 30e6, marks=pytest.mark.slow)]
)
def test_nothing_grows_over_rounds(rng, num_rounds, most):
  process, _, data = cases.federated_averaging(rng)
  with execution.create_local_context(compile='xla') as context:
    state = process.initialize()
    counts = rng.integers(1, 40, num_rounds)

    def footprint():
      stages = context.plan(process.next).stages
      device = context.runner.devices[0]
      programs = [context.runner.engine(stage, device)[0] for stage in stages if stage.clients]
      return sum(p.num_programs for p in programs if p)

    for number, count in enumerate(counts):
      state = process.next(state, [data[i % len(data)] for i in range(count)]).state
      if number == 100:
        before, memory = footprint(), psutil.Process().memory_info().rss
        threads = threading.active_count()
    assert footprint() == before
    assert threading.active_count() < threads + 5  # Pools start threads when they first need them.
    assert psutil.Process().memory_info().rss - memory < most


def test_it_can_be_called_from_several_threads(rng):
  process, _, data = cases.federated_averaging(rng)
  with execution.create_local_context() as context:
    state = process.initialize()
    wanted = process.next(state, data).state.global_model_weights.trainable
  results = []

  def call():
    with tff.framework.get_context_stack().install(context):
      results.append(process.next(state, data).state.global_model_weights.trainable)

  threads = [threading.Thread(target=call) for _ in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(results) == 4
  for result in results:
    assert all(np.array_equal(a, b) for a, b in zip(result, wanted, strict=True))


def test_async_programs_with_a_state_manager(rng, tmp_path):
  process, examples, data = cases.federated_averaging(rng)
  context = execution.create_async_local_context()

  async def program():
    manager = tff.program.FileProgramStateManager(tmp_path)
    federated = tff.program.NativeFederatedContext(context)
    with tff.framework.get_context_stack().install(federated):
      state = process.initialize()
      for version in range(2):
        state = process.next(state, data).state
        state = await tff.program.materialize_value(state)
        await manager.save(state, version)
      return state, await manager.load(1, state)

  state, loaded = asyncio.run(program())
  weights = loaded.global_model_weights.trainable
  start = [w for w in (np.zeros_like(w) for w in weights)]
  with execution.create_local_context():
    start = process.get_model_weights(process.initialize()).trainable
  for got, wanted in zip(weights, cases.numpy_rounds(start, examples, 2), strict=True):
    np.testing.assert_allclose(got, wanted, atol=2e-6)
  assert state.global_model_weights.trainable[0].shape == weights[0].shape


def test_context_manager_and_default():
  stack = tff.framework.get_context_stack()
  before = stack.current
  with execution.create_local_context() as context:
    assert stack.current is context
  assert stack.current is before


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match="`devices` must name some of .*, found .*'TPU:0'"):
    execution.create_local_context(devices=['TPU:0'])
  with pytest.raises(ValueError, match='`compile` must be one of'):
    execution.create_local_context(compile='fast')
  with pytest.raises(ValueError, match='`max_clients_in_flight` must be at least 1'):
    execution.create_local_context(max_clients_in_flight=0)


def test_refuses_arguments_of_other_types():
  add = tff.tensorflow.computation(lambda x: x + 1, np.int32)
  with execution.create_local_context():
    with pytest.raises(TypeError):
      add(1.5)
    with pytest.raises(TypeError, match='Expected a data set of type'):
      cases.total(tf.data.Dataset.from_tensor_slices([1.5]))


def run_script(text, **settings):
  return subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(text)],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    **settings,
  )


@pytest.mark.parametrize('data', ['range(100).repeat(10**5)', 'range(9).repeat().filter(never)'])
@pytest.mark.parametrize('workers', [1, 2])
def test_interrupt_returns_at_once_and_leaves_nothing(data, workers):
  script = run_script(
    f"""
    import signal
    import numpy as np, tensorflow as tf, tensorflow_federated as tff
    from tff_lowrank import execution
    from tests.execution import cases
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A background job ignores it.
    execution.set_local_context(compile='tensorflow', max_clients_in_flight={workers})
    cases.sum_of_all([tf.data.Dataset.range(3)] * 4)
    never = lambda x: x < 0
    long = tf.data.Dataset.{data}
    print('started', flush=True)
    cases.sum_of_all([long] * 1000)
    """
  )
  try:
    while script.stdout.readline().strip() != 'started':
      assert script.poll() is None
    time.sleep(3)
    start = time.monotonic()
    os.kill(script.pid, signal.SIGINT)
    out, _ = script.communicate(timeout=60)
  finally:
    script.kill()
  assert 'KeyboardInterrupt' in out
  assert time.monotonic() - start < 20
  assert not psutil.pid_exists(script.pid)


def test_data_that_never_ends_is_refused():
  for mode in MODES:
    with execution.create_local_context(compile=mode):
      with pytest.raises(execution.ClientError, match='Client 2 of 2 .*an infinite data set'):
        cases.sum_of_all([numbers(1, 2), numbers(1).repeat()])


def test_a_thread_without_a_context_is_told_what_to_do():
  errors = []

  def call():
    try:
      cases.sum_of_all([numbers(1)])
    except RuntimeError as e:
      errors.append(str(e))

  thread = threading.Thread(target=call)
  thread.start()
  thread.join()
  assert len(errors) == 1 and 'tff_lowrank.execution.set_local_context()' in errors[0]


def test_a_forked_process_is_told_what_to_do():
  script = run_script(
    """
    import multiprocessing
    import tensorflow as tf
    from tff_lowrank import execution
    from tests.execution import cases
    execution.set_local_context()
    fork = multiprocessing.get_context('fork')
    for work in (execution.create_local_context, cases.sum_of_all):
      cases.sum_of_all([tf.data.Dataset.range(3)])
      process = fork.Process(target=work, args=() if work != cases.sum_of_all else ([],))
      process.start()
      process.join(60)
      print('exit', process.exitcode)
    """
  )
  out, _ = script.communicate(timeout=200)
  assert out.count('RuntimeError: A `tff_lowrank.execution` context cannot run') == 2, out
  assert out.count('exit 1') == 2


def test_without_xla_it_is_said_once():
  script = run_script(
    """
    import os, warnings
    os.environ['JAX_PLATFORMS'] = 'cuda'
    import tensorflow as tf
    from tff_lowrank import execution
    from tests.execution import cases
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter('always')
      with execution.create_local_context():
        for _ in range(3):
          assert cases.sum_of_all([tf.data.Dataset.range(30)]) == 435
    print([str(w.message) for w in caught if 'JAX_PLATFORMS=cuda' in str(w.message)])
    execution.create_local_context(compile='tensorflow')
    execution.create_local_context(compile='xla')
    """
  )
  out, _ = script.communicate(timeout=200)
  assert out.count("['XLA is not available on CPU:0") == 1, out
  assert 'ValueError: XLA is not available on CPU:0' in out and 'JAX_PLATFORMS=cuda excludes' in out


def test_programs_go_with_their_process(rng):
  with execution.create_local_context(compile='xla') as context:
    process, _, data = cases.federated_averaging(rng)
    cases.run_rounds(process, data, 1)
    (stage, *_) = [s for s in context.plan(process.next).stages if s.clients]
    programs = weakref.ref(context.runner.engine(stage, context.runner.devices[0])[0])
    assert programs().num_programs
    del process, stage
    gc.collect()
    assert programs() is None


def test_several_devices_give_the_same_numbers():
  script = run_script(
    """
    import numpy as np, tensorflow as tf
    cpu = tf.config.list_physical_devices('CPU')[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    from tff_lowrank import execution
    from tests.execution import cases
    process, _, data = cases.federated_averaging(np.random.default_rng(0))
    found = []
    for mode in ('tensorflow', 'xla'):
      for count in (1, 4):
        names = [f'CPU:{i}' for i in range(count)]
        with execution.create_local_context(devices=names, compile=mode) as context:
          assert len(context.runner.devices) == count
          found.append(cases.run_rounds(process, data * 3, 2)[0])
    for one, four in (found[:2], found[2:]):
      assert all(np.array_equal(a, b) for a, b in zip(one, four))
    print('same')
    """
  )
  out, _ = script.communicate(timeout=300)
  assert script.returncode == 0 and 'same' in out, out[-2000:]


def test_secure_sums_are_sums():
  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def secure_sums(numbers):
    return (
      tff.federated_secure_sum(numbers, np.int32(100)),
      tff.federated_secure_sum_bitwidth(numbers, np.int32(7)),
    )

  with execution.create_local_context():
    assert [*secure_sums([3, 4, 5])] == [12, 12]
