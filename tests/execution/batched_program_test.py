import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tests.learning import linear
from tff_lowrank import layers
from tff_lowrank import learning
from tff_lowrank import tasks
from tff_lowrank.execution import batched_program
from tff_lowrank.execution import cohort
from tff_lowrank.execution import native
from tff_lowrank.execution import xla
from tff_lowrank.models import keyed
from tff_lowrank.simulation import batches


def assert_equal(found, wanted, atol=1e-6):
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=atol)


# As many batches for all; others; with smaller last batches.
@pytest.mark.parametrize('sizes', [(6,) * 5, (9, 3, 12, 6, 6, 30, 3, 9), (7, 4, 10, 3, 1, 4)])
def test_equals_clients_one_after_the_other_and_numpy(rng, monkeypatch, sizes):
  process, *_ = cases.federated_averaging(rng)
  examples = [linear.examples(rng, n) for n in sizes]
  data = [linear.dataset(*e, cases.BATCH) for e in examples]
  (wanted, wanted_metrics), _ = cases.run_in_xla(monkeypatch, process, data, False)
  (weights, metrics), programs = cases.run_in_xla(monkeypatch, process, data, True)
  assert all(p.batched and p.failure_batched is None for p in programs)
  assert_equal(weights, wanted)
  initial = process.get_model_weights(process.initialize()).trainable
  assert_equal(weights, cases.numpy_rounds(initial, examples, 2), 1e-5)
  trained, wanted_trained = (m['client_work']['train'] for m in (metrics, wanted_metrics))
  assert trained == pytest.approx(wanted_trained)


def test_recurrent_models_of_variables(rng, monkeypatch):
  process, data = cases.lstm_averaging(rng)
  (wanted, _), _ = cases.run_in_xla(monkeypatch, process, data, False)
  (weights, _), programs = cases.run_in_xla(monkeypatch, process, data, True)
  assert all(p.batched for p in programs)
  assert_equal(weights, wanted)


def images(rng, sizes=(8, 8, 8)):
  """Noise: of two equal elements, rounding would choose the larger one in a maximum."""
  shapes = [(n, 9, 9, 2) for n in sizes]
  data = [
    (rng.normal(size=s).astype(np.float32), rng.integers(0, 3, s[0]).astype(np.int32))
    for s in shapes
  ]
  return [tf.data.Dataset.from_tensor_slices(dict(x=x, y=y)).batch(4) for x, y in data]


def image_model(data, *hidden):
  tf.keras.utils.set_random_seed(3)
  keras = tf.keras.layers
  model = tf.keras.Sequential(
    [keras.InputLayer((9, 9, 2)), *hidden, keras.Flatten(), keras.Dense(3)]
  )
  loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  return tff.learning.models.functional_model_from_keras(model, loss, data[0].element_spec)


def convolutions():
  keras = tf.keras.layers
  return [
    keras.Conv2D(4, 3, strides=2, padding='same', activation='tanh'),
    keras.DepthwiseConv2D(2, dilation_rate=2, padding='same'),
    keras.MaxPool2D(2, strides=1),
    keras.Conv2D(4, 2, groups=2, activation='elu'),
    keras.AveragePooling2D(2),
  ]


sgd = tff.learning.optimizers.build_sgdm

BUILDERS = dict(
  fed_avg=lambda model, n: learning.build_fed_avg(model, sgd(0.1)),
  adam=lambda model, n: learning.build_fed_avg(model, tff.learning.optimizers.build_adam(0.01)),
  lbgm=lambda model, n: learning.build_lbgm_fed_avg(model, sgd(0.1), threshold=0.4),
  apf=lambda model, n: learning.build_apf_fed_avg(model, sgd(0.1)),
  scaffold=lambda model, n: learning.build_scaffold(model, sgd(0.1), num_clients=n),
)


def on_xla(monkeypatch, is_batched, run):
  return cases.on_xla(monkeypatch, is_batched, run)[0]


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=[pytest.mark.slow] * (n == 'fed_avg')) for n in BUILDERS]
)
def test_convolutions_under_methods_with_client_memory(rng, monkeypatch, name):
  data = images(rng)
  process = BUILDERS[name](image_model(data, *convolutions()), len(data))
  run = functools.partial(cases.run_with_memory, process, data)
  assert_equal(on_xla(monkeypatch, True, run), on_xla(monkeypatch, False, run), 1e-5)


def test_composed_kernels(rng, monkeypatch):
  data = images(rng)
  hidden = [layers.FedParaConv2D(4, 3, gamma=0.5), layers.FedParaConv2D(3, 2, gamma=0.5)]
  process = learning.build_fed_avg(image_model(data, *hidden), sgd(0.1))
  run = functools.partial(cases.run_with_memory, process, data)
  assert_equal(on_xla(monkeypatch, True, run), on_xla(monkeypatch, False, run), 1e-5)


@tff.tensorflow.computation(tff.SequenceType(np.int64))
def largest(numbers):
  return numbers.reduce(np.int64(-1), lambda a, b: tf.maximum(a, b))


@tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS))
def largest_of_all(numbers):
  of_clients = tff.federated_map(largest, numbers)
  return tff.federated_max(of_clients), tff.federated_min(of_clients), of_clients


@pytest.mark.parametrize('counts', [(2, 5, 3, 4, 1), (4, 4, 4)])
def test_aggregates_that_are_no_sums_and_values_that_clients_keep(monkeypatch, counts):
  starts = 10 * np.arange(len(counts))
  data = [tf.data.Dataset.range(a, a + n) for a, n in zip(starts, counts, strict=True)]
  ends = [int(a) + n - 1 for a, n in zip(starts, counts, strict=True)]
  found = on_xla(monkeypatch, True, lambda: largest_of_all(data))
  assert (found[0], found[1], list(found[2])) == (max(ends), min(ends), ends)


def limit_memory(monkeypatch):
  """Lets no more than two clients fit; returns the list of the sizes of blocks compiled."""
  capacities = []
  program_class = batched_program.BatchedProgram

  def program(part, block, *arguments):
    capacities.append(block.capacity)
    return program_class(part, block, *arguments)

  monkeypatch.setattr(batched_program, 'BatchedProgram', program)
  monkeypatch.setattr(cohort, 'partition', lambda n, _: [range(n)])
  monkeypatch.setattr(native, 'memory_bytes', lambda device: 1600)
  monkeypatch.setattr(native.XlaProgram, 'num_bytes', property(lambda _: 300 * capacities[-1]))
  return capacities


def test_as_many_clients_as_fit_in_memory(rng, monkeypatch):
  process, *_ = cases.federated_averaging(rng)
  data = [linear.dataset(*linear.examples(rng, 6), cases.BATCH) for _ in range(8)]
  (wanted, _), _ = cases.run_in_xla(monkeypatch, process, data, False)
  capacities = limit_memory(monkeypatch)
  (weights, _), _ = cases.run_in_xla(monkeypatch, process, data, True)
  assert capacities == [8, 2]
  assert_equal(weights, wanted)


def test_no_client_counts_twice_where_a_piece_of_a_block_cannot_be_compiled(rng, monkeypatch):
  process, *_ = cases.federated_averaging(rng)
  data = [linear.dataset(*linear.examples(rng, 6), cases.BATCH) for _ in range(7)]
  (wanted, wanted_metrics), _ = cases.run_in_xla(monkeypatch, process, data, False)
  capacities = limit_memory(monkeypatch)
  compile_program = xla.StagePrograms._compile

  def refuse_one(self, stage, env, block, *arguments):
    return None if block.num_clients == 1 else compile_program(self, stage, env, block, *arguments)

  monkeypatch.setattr(xla.StagePrograms, '_compile', refuse_one)
  (weights, metrics), _ = cases.run_in_xla(monkeypatch, process, data, True)
  assert capacities == [7, 2]
  assert_equal(weights, wanted)
  trained, wanted_trained = (m['client_work']['train'] for m in (metrics, wanted_metrics))
  assert trained == pytest.approx(wanted_trained)


def batches_of(task, client):
  """Two batches of a client's data as NumPy, with noise in place of pictures."""
  cut = batches.ClientBatches(1, 4, 1, 8)
  rng = np.random.default_rng(int.from_bytes(client.encode(), 'little') % 2**32)

  def noise(array):
    is_picture = array.dtype == np.float32 and array.ndim > 2
    return rng.normal(size=array.shape).astype(np.float32) if is_picture else array

  data = cut.dataset(task.train, client, 1, task.preprocess)
  examples = [tf.nest.map_structure(noise, batch) for batch in data.as_numpy_iterator()]
  return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=data.element_spec)


@pytest.mark.slow
@pytest.mark.parametrize('name', tasks.NAMES)
def test_every_task_s_model(monkeypatch, name):
  natural = tasks.simple_partitions(name)[0] == tasks.NATURAL
  partition = (
    dict(partition=tasks.NATURAL, num_clients=0)
    if natural
    else dict(partition='iid', num_clients=4)
  )
  try:
    task = tasks.build(name, seed=1, data_dir=tasks.SYNTHETIC, **partition)
  except FileNotFoundError as e:
    pytest.skip(str(e))
  model = task.build_model(1)
  if keyed.is_keyed(model):
    pytest.skip('its masks are compared in models/keyed_test.py')
  data = [batches_of(task, client) for client in task.train.client_ids[:2]]
  process = learning.build_fed_avg(model, sgd(0.01))
  run = functools.partial(cases.run_with_memory, process, data)
  wanted = on_xla(monkeypatch, False, run)
  initial = process.initialize().global_model_weights.trainable
  # Rounding grows in ResNet-18: a change of its first weights by 1e-7 of themselves changes the
  # update of two rounds by 2e-2, and that of one round by 6e-4.
  bound = 5e-2 if name == 'cifar10_resnet18' else 1e-3
  for w, a, b in zip(initial, on_xla(monkeypatch, True, run), wanted, strict=False):
    assert np.linalg.norm(a - b) <= bound * max(np.linalg.norm(b - w), 1e-6)
