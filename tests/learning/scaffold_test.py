"""Rounds of SCAFFOLD against NumPy written from its equations."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tests.learning import tiny
from tff_lowrank import learning

optimizers = tff.learning.optimizers
sgd = tff.learning.optimizers.build_sgdm


@pytest.mark.each_once
@pytest.mark.parametrize('weighting', [tiny.UNIFORM, tiny.NUM_EXAMPLES])
@pytest.mark.parametrize(
  'server_rate, rates', [(1.0, tiny.ALIKE), (0.5, tiny.ALIKE), (0.5, tiny.OWN)]
)
def test_scaffold(model, clients, weighting, server_rate, rates):
  process = learning.build_scaffold(
    model, tiny.optimizer(rates), sgd(server_rate), num_clients=4, client_weighting=weighting
  )
  x = tiny.flat(model.initial_weights[0]).astype(np.float64)
  c, own = np.zeros(tiny.FLOATS), {k: np.zeros(tiny.FLOATS) for k in clients}
  for cohort, got, output, memory in tiny.run(process, clients, rates=rates):
    updates, changes = [], []
    for k in cohort:
      y, steps = tiny.train(x, *clients[k], lambda v, k=k, c=c: c - own[k], rates[k])
      new = own[k] - c + (x - y) / (steps * rates[k])
      updates.append(y - x)
      changes.append(new - own[k])
      own[k] = new
    p = tiny.shares(cohort, weighting)
    x = x + server_rate * p @ updates
    c = c + len(cohort) / 4 * p @ changes
    np.testing.assert_allclose(got, x, atol=1e-5)
    np.testing.assert_allclose(tiny.flat(output.state.finalizer['correction']), c, atol=1e-5)
    for k in clients:
      np.testing.assert_allclose(tiny.flat(memory[k]['work']['control']), own[k], atol=1e-5)
    assert tiny.total_bits(output, 'uplink') == [2 * 32 * tiny.FLOATS] * len(cohort)
    assert tiny.total_bits(output, 'downlink') == [2 * 32 * tiny.FLOATS] * len(cohort)
  if weighting == tiny.UNIFORM:  # The server's control is the mean of the clients'.
    np.testing.assert_allclose(c, np.mean(list(own.values()), axis=0), atol=1e-6)


def test_models_with_variables(clients):
  def model_fn():
    dense = tf.keras.layers.Dense(
      linear.CLASSES, kernel_initializer='ones', bias_initializer='ones'
    )
    return tff.learning.models.from_keras_model(
      tf.keras.Sequential([tf.keras.layers.InputLayer((linear.FEATURES,)), dense]),
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      dict(x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)),
    )

  w = np.ones(tiny.FLOATS)
  own = {k: np.zeros(tiny.FLOATS) for k in clients}
  c = np.zeros(tiny.FLOATS)
  process = learning.build_scaffold(model_fn, sgd(tiny.RATE), num_clients=4)
  for cohort, got, _, _ in tiny.run(process, clients, ('abcd', 'abcd')):
    trained = {k: tiny.train(w, *clients[k], lambda v, d=c - own[k]: d) for k in cohort}
    own = {k: own[k] - c + (w - y) / (steps * tiny.RATE) for k, (y, steps) in trained.items()}
    p = tiny.shares(cohort, tiny.NUM_EXAMPLES)
    w = p @ [trained[k][0] for k in cohort]
    c = p @ [own[k] for k in cohort]
    np.testing.assert_allclose(got, w, atol=1e-5)


def test_refuses_bad_arguments(model):
  with pytest.raises(ValueError, match='`num_clients`'):
    learning.build_scaffold(model, sgd(0.1), num_clients=0)
  with pytest.raises(ValueError, match='SGD without momentum'):
    learning.build_scaffold(model, sgd(0.1, momentum=0.9), num_clients=2)
