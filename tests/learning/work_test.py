import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import ledger
from tff_lowrank.client_work import frozen
from tff_lowrank.learning import work


def test_each_client_works_on_its_own(rng):
  model = linear.build_model(rng)
  training = frozen.build_training(model, tff.learning.optimizers.build_sgdm(0.2))

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
