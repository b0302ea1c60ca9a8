"""Models with dropout, as tasks make them: the same masks wherever they run."""

import collections
import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tff_lowrank import execution
from tff_lowrank import layers
from tff_lowrank import learning
from tff_lowrank import tasks
from tff_lowrank.models import keyed
from tff_lowrank.simulation import batches
from tff_lowrank.simulation import evaluation

RATE, ROUNDS = 0.1, 2


def task_of(*parts):
  def keras_model_fn():
    ends = tf.keras.layers.InputLayer((8, 8, 1)), tf.keras.layers.Flatten()
    return tf.keras.Sequential([*ends, *(part() for part in parts), tf.keras.layers.Dense(10)])

  task = tasks.build('digits', partition='iid', num_clients=5, seed=1)
  return dataclasses.replace(task, keras_model_fn=keras_model_fn)


def hidden(**kwargs):
  return tf.keras.layers.Dense(12, 'tanh', **kwargs)


@pytest.fixture(scope='module')
def task():
  return task_of(lambda: layers.StatelessDropout(0.2), hidden, lambda: layers.StatelessDropout(0.5))


def data_of(task, number=1, seed=1, **settings):
  settings = dict(max_elements=50, dropout_keys=True) | settings
  cut = batches.ClientBatches(2, 32, seed, **settings)
  return [cut.dataset(task.train, c, number, task.preprocess) for c in task.train.client_ids]


def trained(task, build=learning.build_fed_avg, count=None, **settings):
  """The weights and metrics after some rounds of some clients."""
  process = build(task.build_model(seed=3), tff.learning.optimizers.build_sgdm(RATE))
  state = process.initialize()
  clients = slice(count)
  memory = [process.initialize_client() for _ in task.train.client_ids[clients]]
  for number in range(1, ROUNDS + 1):
    output = process.next(state, memory, data_of(task, number, **settings)[clients])
    state, memory = output.state, output.client_states
  return process.get_model_weights(state).trainable, output.metrics['client_work']['train']


def assert_close(found, wanted, atol=1e-5):
  for a, b in zip(found[0], wanted[0], strict=True):
    np.testing.assert_allclose(a, b, atol=atol)
  assert found[1] == pytest.approx(wanted[1], rel=1e-4)


def by_hand(task):
  """`trained` with Keras's gradients, whose masks are made of the key by the layers alone."""
  model = task.keras_model_fn()
  received = task.build_model(seed=3).initial_weights[0]
  for number in range(1, ROUNDS + 1):
    updates = [np.zeros_like(w) for w in received]
    for data in data_of(task, number):
      model.set_weights(received)
      for batch in data:
        with tf.GradientTape() as tape, layers.dropout_key(batch['x']['dropout_key']):
          logits = model(batch['x']['examples'], training=True)
          loss = task.objective.loss(batch['y'], logits) + sum(model.losses)
        for v, g in zip(
          model.trainable_variables, tape.gradient(loss, model.trainable_variables), strict=True
        ):
          v.assign_sub(RATE * g)
      for total, v in zip(updates, model.get_weights(), strict=True):
        total += v / len(task.train.client_ids)
    received = updates
  return received


@pytest.mark.parametrize(
  'build', [learning.build_fed_avg, functools.partial(learning.build_scaffold, num_clients=5)]
)
def test_two_runs_are_equal(task, build):
  first, second = trained(task, build), trained(task, build)
  assert all(np.array_equal(a, b) for a, b in zip(first[0], second[0], strict=True))
  assert first[1] == second[1]


@pytest.mark.parametrize('own', [{}, dict(kernel_regularizer='l2', activity_regularizer='l1')])
def test_rounds_are_those_by_hand(own):
  task = task_of(lambda: layers.StatelessDropout(0.2), lambda: hidden(**own))
  for a, b in zip(trained(task)[0], by_hand(task), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


# Clients with a smaller last batch run one by one, others in blocks.
@pytest.mark.parametrize('max_elements', [50, 64])
@pytest.mark.parametrize('is_batched', [False, True])
def test_xla_has_the_masks_of_tensorflow(task, monkeypatch, is_batched, max_elements):
  run = lambda: trained(task, max_elements=max_elements)  # noqa: E731
  found, _ = cases.on_xla(monkeypatch, is_batched, run)
  with execution.create_local_context(compile='tensorflow'):
    assert_close(found, run())


def test_the_stock_runtime_has_the_masks_of_the_local_context(task):
  with execution.create_local_context(compile='tensorflow'):
    wanted = trained(task)
  with execution.stock_context():
    assert_close(trained(task), wanted)


def test_the_masks_count(task):
  found = trained(task)[0]
  for other in (trained(task, seed=2), trained(task_of(hidden), dropout_keys=False)):
    assert max(np.abs(a - b).max() for a, b in zip(found, other[0], strict=True)) > 1e-3


def test_clients_in_flight_make_no_difference(task):
  results = []
  for in_flight in (1, 4):
    with execution.create_local_context(max_clients_in_flight=in_flight):
      results.append(trained(task))
  assert all(np.array_equal(a, b) for a, b in zip(results[0][0], results[1][0], strict=True))


def test_evaluation_is_without_dropout_and_key(task):
  model = task.build_model(seed=3)
  weights = tff.learning.models.ModelWeights(*model.initial_weights)
  found = evaluation.build_evaluation(model, task.test, task.preprocess)(weights)
  keras_model = task.keras_model_fn()
  keras_model.set_weights(weights.trainable)
  prepared = task.preprocess(collections.OrderedDict(x=task.test.x, y=task.test.y))
  wanted = task.objective.loss(prepared['y'], keras_model(prepared['x']))
  np.testing.assert_allclose(found['loss'], wanted, rtol=1e-5)


def test_the_wrong_kind_of_batches_is_refused(task):
  with pytest.raises(TypeError, match='dropout_key'):
    trained(task, dropout_keys=False)
  with pytest.raises(TypeError, match='dropout_key'):
    trained(task_of(hidden))


def test_models_without_dropout_stay_as_they_are():
  task = task_of(hidden)
  keras_model, spec = task.keras_model_fn(), collections.OrderedDict(x=1, y=2)
  model, found = keyed.for_functional(keras_model, spec)
  assert model is keras_model and found is spec
  built = task.build_model(seed=3)
  assert not keyed.is_keyed(built) and built.input_spec['x'].shape == (None, 8, 8, 1)


def test_types(task):
  model = task.build_model(seed=3)
  assert keyed.is_keyed(model)
  assert data_of(task)[0].element_spec == model.input_spec
  plain = keyed.without_key(model.input_spec)
  assert plain == keyed.without_key(plain) == task_of(hidden).build_model(seed=3).input_spec


def test_initial_weights_are_those_without_dropout(task):
  plain = task_of(hidden).build_model(seed=3).initial_weights[0]
  for a, b in zip(task.build_model(seed=3).initial_weights[0], plain, strict=True):
    np.testing.assert_array_equal(a, b)
