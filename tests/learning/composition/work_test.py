import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank import ledger
from tff_lowrank.client_work import training as training_lib
from tff_lowrank.learning.composition import work


def test_each_client_works_on_its_own(rng):
  model = linear.build_model(rng)
  training = training_lib.build_training(model, tff.learning.optimizers.build_sgdm(0.2))

  @tff.tensorflow.computation
  def initialize_client():
    return collections.OrderedDict(count=tf.constant(0))

  def one(training, memory, weights, dataset):
    trained = training.train(weights, None, dataset)
    memory = collections.OrderedDict(count=memory['count'] + 1)
    return work.Worked(memory, trained.result, ledger.price(flag=3), trained.metrics)

  built = work.build_work(
    training, initialize_client, training.weights_type, one, lambda weights: weights.trainable
  )
  weights = tff.learning.models.ModelWeights(*model.initial_weights)
  clients = [linear.examples(rng, n) for n in (5, 9)]
  memory = [initialize_client(), collections.OrderedDict(count=4)]
  output = built.next((), memory, [weights] * 2, [linear.dataset(x, y, 4) for x, y in clients])
  assert [m['count'] for m in output.client_state] == [1, 5]
  assert [p['flag'] for p in output.downlink] == [3, 3]
  assert 'loss' in output.measurements['train']
  for (x, y), result in zip(clients, output.result, strict=True):
    assert result.update_weight == len(x)
    trained = linear.train(weights.trainable, x, y, 4, 0.2)
    for before, after, update in zip(weights.trainable, trained, result.update, strict=True):
      np.testing.assert_allclose(update, before - after, atol=1e-6)
  received = built.received(weights)
  np.testing.assert_array_equal(received[0], weights.trainable[0])


def sum_model():
  """Of loss `mean(x sum(w) + b)`, so that a step of SGD moves w by the mean of x."""
  weights = ((np.zeros(20, np.float32), np.zeros(1, np.float32)), ())

  @tf.function
  def predict(weights, x, training):
    return x * tf.reduce_sum(weights[0][0]) + weights[0][1]

  @tf.function
  def loss(output, label, sample_weight=None):
    return tf.reduce_mean(output)

  return tff.learning.models.FunctionalModel(
    initial_weights=weights,
    predict_on_batch_fn=predict,
    loss_fn=loss,
    input_spec=collections.OrderedDict(x=tf.TensorSpec([None, 1]), y=tf.TensorSpec([None, 1])),
  )


BUILDS = {
  'scaffold': lambda *a, **k: learning.build_scaffold(*a, num_clients=2, **k),
  'fed_dyn': lambda *a, **k: learning.build_fed_dyn(*a, num_clients=2, **k),
  'personal': lambda *a, **k: learning.build_personal_fed_avg(*a, personal=[False, True], **k),
  'partial_sync': lambda *a, **k: learning.build_partial_sync_fed_avg(
    *a, freezing_settings=freezing.Settings(control='permanent', stability_threshold=2.0), **k
  ),
}


@pytest.mark.parametrize('method', BUILDS)
def test_a_client_whose_message_is_out_of_range_keeps_its_memory(method):
  """Its own update is finite, but not times n / k; it remembers what it was sent, and no more."""
  sgd = tff.learning.optimizers.build_sgdm(1.0)
  process = BUILDS[method](sum_model(), sgd, codec=codecs.parse('random_k(1)'))
  state, memory = process.initialize(), [process.initialize_client()] * 2

  def data(x):
    return linear.dataset(np.full([4, 1], x, np.float32), np.zeros([4, 1], np.float32), 4)

  for x in (1.0, 3e37, 2.0):  # Of the first client.
    before = memory[0]['work']
    output = process.next(state, memory, [data(x), data(1.0)])
    state, memory = output.state, output.client_states
    assert [bool(r['accepted']) for r in output.reports] == [x < 3e37, True]
    assert np.isfinite(process.get_model_weights(state).trainable[0]).all()
    assert all(np.abs(w).max() < 1e30 for w in tf.nest.flatten(memory[0]['work']))
    for name in ('control', 'gradient', 'personal'):
      if name in before:
        pairs = zip(before[name], memory[0]['work'][name], strict=True)
        changed = any(np.any(a != b) for a, b in pairs)
        assert changed == (x < 3e37), (name, x)
    for name in ('seen', 'version'):
      if name in before:
        assert memory[0]['work'][name] == memory[1]['work'][name]
