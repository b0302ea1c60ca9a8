"""What crosses between the host and a device.

There is no GPU here: the CPU is taken for one whose memory TensorFlow and jaxlib share.
"""

import functools
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import batched_program_test
from tests.execution import cases
from tests.learning import linear
from tff_lowrank import learning
from tff_lowrank.execution import cohort
from tff_lowrank.execution import device_memory

# Numbers of clients and of steps, metrics, and the bounds of batches.
FEW_BYTES = 2000


@pytest.fixture
def gpu(monkeypatch):
  """Takes the CPU for a GPU; returns a function that says what has crossed since it was asked."""
  with monkeypatch.context() as patch:
    patch.setattr(device_memory, '_is_gpu', lambda tensor: True)
    shared_tensor = device_memory._shared_tensor
    # On the CPU jaxlib's buffers begin where TensorFlow cannot read them.
    patch.setattr(
      device_memory,
      '_shared_tensor',
      lambda buffer: (
        tf.constant(np.asarray(buffer))
        if buffer.unsafe_buffer_pointer() % 64
        else shared_tensor(buffer)
      ),
    )
    patch.setattr(
      cohort.Device,
      'memory',
      functools.cached_property(
        lambda device: device_memory.DeviceMemory(device.xla(), '/device:CPU:0')
      ),
    )
    cohort.Device.memory.__set_name__(cohort.Device, 'memory')
    patch.setattr(device_memory, 'traffic', device_memory.Traffic())

    def crossed():
      traffic = device_memory.traffic
      device_memory.traffic = device_memory.Traffic()
      return traffic.to_device, traffic.to_host

    yield crossed


def large_process():
  """A linear model of 10 million numbers."""

  @tf.function
  def predict(weights, x, training):
    del training
    return tf.matmul(x, weights[0][0])

  spec = (tf.TensorSpec([None, 100], tf.float32), tf.TensorSpec([None], tf.float32))

  @tf.function
  def loss(output, label, sample_weight=None):
    del sample_weight
    return tf.reduce_mean((tf.reduce_mean(output, 1) - label) ** 2)

  model = tff.learning.models.FunctionalModel(
    initial_weights=((np.full([100, 100_000], 0.01, np.float32),), ()),
    predict_on_batch_fn=predict,
    loss_fn=loss,
    input_spec=spec,
  )
  return tff.learning.algorithms.build_unweighted_fed_avg(
    model, cases.sgd(0.1), cases.sgd(1.0, momentum=0.9)
  )


def clients_data(rng, num_clients=2, num_examples=8):
  """Data sets of one pass, and the bytes of their numbers."""
  arrays = [
    (rng.normal(size=(num_examples, 100)).astype(np.float32), np.ones(num_examples, np.float32))
    for _ in range(num_clients)
  ]
  num_bytes = sum(a.nbytes for pair in arrays for a in pair)
  return [tf.data.Dataset.from_tensor_slices(pair).batch(4) for pair in arrays], num_bytes


def test_nothing_but_new_data_crosses_in_a_second_round(rng, monkeypatch, gpu):
  process = large_process()

  def run():
    state = process.initialize()
    found = []
    data, num_bytes = clients_data(rng)
    for again in (False, True, False, True):
      if not again:
        data, num_bytes = clients_data(rng)
      gpu()
      state = process.next(state, data).state
      to_device, to_host = gpu()
      found.append(to_device - (0 if again else num_bytes))
      assert to_host <= FEW_BYTES
    weights = state.global_model_weights.trainable[0]
    assert gpu() == (0, 0)
    assert np.isfinite(weights).all() and weights.shape == (100, 100_000)
    assert gpu() == (0, weights.nbytes)
    return found

  found, _ = cases.on_xla(monkeypatch, True, run, max_clients_in_flight=1)
  assert 0 <= min(found) and max(found) <= FEW_BYTES


@pytest.mark.parametrize('name', ['lbgm', 'apf', 'scaffold'])
def test_equals_the_cpu_and_client_memory_stays(rng, monkeypatch, gpu, name):
  data = batched_program_test.images(rng)
  model = batched_program_test.image_model(data, tf.keras.layers.Conv2D(16, 3))
  process = batched_program_test.BUILDERS[name](model, len(data))
  run = functools.partial(cases.run_with_memory, process, data)

  def run_with_gpu():
    found = run()
    crossed = gpu()
    batches = sum(a.nbytes for d in data for batch in d for a in map(np.asarray, batch.values()))
    weights = sum(np.asarray(w).nbytes for w in found)
    # The first model and memory, and the data sets once.
    assert crossed[0] <= batches + weights + 2 * FEW_BYTES
    assert crossed[1] <= 2 * FEW_BYTES
    return found

  found, _ = cases.on_xla(monkeypatch, True, run_with_gpu, max_clients_in_flight=1)
  monkeypatch.undo()
  wanted, _ = cases.on_xla(monkeypatch, True, run, max_clients_in_flight=1)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(a, b)


def test_client_memory_that_does_not_fit_goes_to_the_host(rng, monkeypatch, gpu):
  model = linear.build_model(rng)
  kernel_bytes = 4 * max(np.size(w) for w in tf.nest.flatten(model.initial_weights))
  # There is room for two models and one round's client memory, not for two rounds'; the memory
  # before the first round is there too.
  monkeypatch.setattr(device_memory, '_MIN_BYTES', kernel_bytes)
  monkeypatch.setattr(device_memory, '_memory_of_gpu', lambda index: 50_000)
  monkeypatch.setattr(device_memory, '_SHARE_OF_RESULTS', 7 * kernel_bytes / 50_000)
  data = [linear.dataset(*linear.examples(rng, 6), 3) for _ in range(5)]
  process = learning.build_lbgm_fed_avg(model, cases.sgd(0.1), threshold=0.4)

  def run():
    state, states = process.initialize(), [process.initialize_client() for _ in data]
    on_device = []
    for _ in range(4):
      state, states, *_ = process.next(state, states, data)
      arrays = tf.nest.flatten(states)
      on_device.append(sum(isinstance(a, device_memory.DeviceArray) for a in arrays))
    return on_device, [*state.global_model_weights.trainable, *arrays]

  (on_device, found), _ = cases.on_xla(monkeypatch, True, run, max_clients_in_flight=1)
  assert on_device == [0, 5, 0, 5]
  monkeypatch.undo()
  (_, wanted), _ = cases.on_xla(monkeypatch, True, run, max_clients_in_flight=1)
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.int64, np.bool_, np.uint8])
def test_values_go_and_come_back(rng, gpu, dtype):
  array = (10 * rng.normal(size=(40, 50))).astype(dtype)
  (device,) = cohort.find_devices(['CPU:0'])
  tensor = tf.constant(array)
  buffer = device.memory.put(tensor)
  assert buffer.dtype == dtype
  back = device.memory.tensor(buffer)
  assert back.dtype == tensor.dtype
  assert gpu() == (0, 0)
  np.testing.assert_array_equal(back, array)


def test_an_array_on_the_device_is_like_one_of_numpy():
  numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
  array = device_memory.DeviceArray(tf.constant(numbers))
  assert (array.shape, array.dtype, array.ndim, len(array)) == ((2, 3), np.float32, 2, 2)
  np.testing.assert_array_equal(2 * array - numbers, numbers)
  np.testing.assert_array_equal(array[1], numbers[1])
  np.testing.assert_array_equal(array.T.ravel(), numbers.T.ravel())
  np.testing.assert_array_equal(tf.convert_to_tensor(array), numbers)
  np.testing.assert_array_equal(pickle.loads(pickle.dumps(array)), numbers)
  assert array.sum() == 15 and isinstance(array + array, np.ndarray)
  assert not hasattr(array, 'no_such_thing')
