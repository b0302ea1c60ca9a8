import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_work
from tff_lowrank.client_work import training as training_lib

SGD = tff.learning.optimizers.build_sgdm(0.1)
UNIFORM = tff.learning.ClientWeighting.UNIFORM
NUM_EXAMPLES = tff.learning.ClientWeighting.NUM_EXAMPLES


def run(work, model, datasets):
  weights = tff.learning.models.ModelWeights(*(tuple(w) for w in model.initial_weights))
  state = work.initialize()

  @tff.federated_computation(
    work.initialize.type_signature.result,
    tff.FederatedType(work.next.type_signature.parameter[1].member, tff.SERVER),
    work.next.type_signature.parameter[2],
  )
  def next_fn(state, weights, data):
    return work.next(state, tff.federated_broadcast(weights), data)

  return next_fn(state, weights, datasets)


@pytest.mark.parametrize('weighting, weights', [(UNIFORM, [1, 1]), (NUM_EXAMPLES, [5, 3])])
def test_update_is_initial_minus_trained(rng, weighting, weights):
  model = linear.build_model(rng)
  clients = [linear.examples(rng, 5), linear.examples(rng, 3)]
  work = client_work.build_local_sgd(model, SGD, weighting)
  output = run(work, model, [linear.dataset(*c, batch_size=2) for c in clients])
  for (x, y), result, weight in zip(clients, output.result, weights, strict=True):
    expected = linear.train(model.initial_weights[0], x, y, batch_size=2, learning_rate=0.1)
    for before, after, update in zip(
      model.initial_weights[0], expected, result.update, strict=True
    ):
      np.testing.assert_allclose(update, before - after, atol=1e-6)
    assert result.update_weight == weight


@pytest.mark.parametrize('weighting', list(tff.learning.ClientWeighting))
def test_client_without_examples_or_not_finite_has_weight_zero(rng, weighting):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 4)
  datasets = [
    linear.dataset(x, y, 2).take(0),
    linear.dataset(np.full_like(x, np.nan), y, 2),
    linear.dataset(x, y, 2),
  ]
  output = run(client_work.build_local_sgd(model, SGD, weighting), model, datasets)
  weights = [float(result.update_weight) for result in output.result]
  assert weights[:2] == [0, 0] and weights[2] > 0


def test_takes_models_with_variables(rng):
  def model_fn():
    return tff.learning.models.from_keras_model(
      linear.keras_model(),
      loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      input_spec=collections.OrderedDict(
        x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)
      ),
    )

  work = client_work.build_local_sgd(model_fn, SGD, UNIFORM)
  assert isinstance(work, tff.learning.templates.ClientWorkProcess)


@pytest.mark.parametrize(
  'build', [client_work.build_local_sgd, training_lib.build_training], ids=['sgd', 'frozen']
)
def test_refuses_models_that_cannot_learn(build):
  spec = collections.OrderedDict(x=tf.TensorSpec([None, 3]), y=tf.TensorSpec([None], tf.int32))
  loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)

  def keras_model():
    return tf.keras.Sequential([tf.keras.layers.InputLayer((3,)), tf.keras.layers.Flatten()])

  functional = tff.learning.models.FunctionalModel(
    initial_weights=((), ()),
    predict_on_batch_fn=tf.function(lambda weights, x, training: x),
    loss_fn=lambda output, label, sample_weight=None: loss(label, output),
    input_spec=spec,
  )
  for model_fn in (
    functional,
    lambda: tff.learning.models.from_keras_model(keras_model(), loss=loss, input_spec=spec),
  ):
    with pytest.raises(ValueError, match='`model_fn` must have trainable weights, found none'):
      build(model_fn, SGD)


def test_refuses_bad_arguments(rng):
  with pytest.raises(TypeError, match='`model_fn` must be'):
    client_work.build_local_sgd(3, SGD)
  model = linear.build_model(rng)
  with pytest.raises(TypeError, match='`client_optimizer_fn` must be `Optimizer`'):
    client_work.build_local_sgd(model, 0.1)
  with pytest.raises(TypeError, match='`client_weighting` must be `ClientWeighting`'):
    client_work.build_local_sgd(model, SGD, 'uniform')
