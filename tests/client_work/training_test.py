import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_work
from tff_lowrank.client_work import training as training_lib

optimizers = tff.learning.optimizers
OPTIMIZERS = dict(
  sgd=optimizers.build_sgdm(0.1),
  momentum=optimizers.build_sgdm(0.1, momentum=0.9),
  adam=optimizers.build_adam(0.05),
  weight_decay=optimizers.build_adamw(0.05, weight_decay=0.1),
)
UNIFORM = tff.learning.ClientWeighting.UNIFORM


def keras_loss():
  return tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def variable_model(initial):
  def model_fn():
    model = linear.keras_model()
    for variable, value in zip(model.trainable_variables, initial, strict=True):
      variable.assign(value)
    return tff.learning.models.from_keras_model(
      model,
      loss=keras_loss(),
      input_spec=collections.OrderedDict(
        x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)
      ),
      metrics=[tf.keras.metrics.SparseCategoricalAccuracy()],
    )

  return model_fn


def computation(training, mask_shapes):
  mask_type = [tff.TensorType(np.bool_, shape) for shape in mask_shapes]

  @tff.tensorflow.computation(training.weights_type, mask_type, training.data_type)
  def train(weights, frozen, dataset):
    return training.train(weights, frozen, dataset)

  return train


def initial_weights(model):
  return tff.learning.models.ModelWeights(*(tuple(w) for w in model.initial_weights))


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
@pytest.mark.parametrize('kind', ['functional', 'variable'])
def test_frozen_coordinates_stay_to_the_bit(rng, optimizer, kind):
  model = linear.build_model(rng)
  initial = model.initial_weights[0]
  model_fn = model if kind == 'functional' else variable_model(initial)
  training = training_lib.build_training(model_fn, OPTIMIZERS[optimizer])
  frozen = [rng.random((6, 3)) < 0.5, np.array([True, False, True])]
  data = linear.dataset(*linear.examples(rng, 11), 2)
  trained = computation(training, [(6, 3), (3,)])(initial_weights(model), frozen, data)
  for mask, before, after, update in zip(
    frozen, initial, trained.trainable, trained.result.update, strict=True
  ):
    np.testing.assert_array_equal(after[mask], before[mask].astype(np.float32))
    assert not update[mask].any()
    assert (after[~mask] != before[~mask]).all()
  assert trained.result.update_weight == 11


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_active_coordinates_follow_plain_training_where_they_do_not_interact(rng, optimizer):
  # The loss is the mean of |w - x|^2: no coordinate's gradient depends on another.
  @tf.function
  def predict(weights, x, training):
    del training
    return tf.zeros_like(x) + weights[0][0]

  @tf.function
  def loss(output, label, sample_weight=None):
    del sample_weight
    return tf.reduce_mean(tf.square(output - label))

  model = tff.learning.models.FunctionalModel(
    initial_weights=((rng.normal(size=8).astype(np.float32),), ()),
    predict_on_batch_fn=predict,
    loss_fn=loss,
    input_spec=(tf.TensorSpec([None, 8]), tf.TensorSpec([None, 8])),
  )
  training = training_lib.build_training(model, OPTIMIZERS[optimizer])
  x = rng.normal(size=(12, 8)).astype(np.float32)
  data = tf.data.Dataset.from_tensor_slices((x, x)).batch(3)
  train = computation(training, [(8,)])
  frozen = np.arange(8) % 3 == 0
  pinned, plain = (
    train(initial_weights(model), [mask], data).trainable[0] for mask in (frozen, np.zeros(8, bool))
  )
  np.testing.assert_array_equal(pinned[~frozen], plain[~frozen])
  assert (pinned[frozen] != plain[frozen]).all()


def test_a_whole_tensor_can_be_frozen_by_one_bit(rng):
  model = linear.build_model(rng)
  training = training_lib.build_training(model, OPTIMIZERS['momentum'])
  data = linear.dataset(*linear.examples(rng, 6), 2)
  trained = computation(training, [(), ()])(initial_weights(model), [True, False], data)
  assert not trained.result.update[0].any() and trained.result.update[1].all()


@pytest.mark.parametrize('kind', ['functional', 'variable'])
@pytest.mark.parametrize('weighting', list(tff.learning.ClientWeighting))
def test_nothing_frozen_is_tffs_own_training_to_the_bit(rng, kind, weighting):
  model = linear.build_model(rng)
  model_fn = model if kind == 'functional' else variable_model(model.initial_weights[0])
  x, y = linear.examples(rng, 7)
  datasets = [
    linear.dataset(x, y, 2),
    linear.dataset(x, y, 2).take(0),
    linear.dataset(np.full_like(x, np.nan), y, 2),
  ]
  training = training_lib.build_training(model_fn, OPTIMIZERS['adam'], weighting)
  theirs = client_work.build_local_sgd(model_fn, OPTIMIZERS['adam'], weighting)
  train = computation(training, [(6, 3), (3,)])
  none = [np.zeros((6, 3), bool), np.zeros(3, bool)]

  @tff.federated_computation(
    theirs.initialize.type_signature.result,
    tff.FederatedType(training.weights_type, tff.SERVER),
    theirs.next.type_signature.parameter[2],
  )
  def reference(state, weights, data):
    return theirs.next(state, tff.federated_broadcast(weights), data)

  @tff.federated_computation(
    tff.FederatedType(training.weights_type, tff.SERVER),
    tff.FederatedType([tff.TensorType(np.bool_, m.shape) for m in none], tff.SERVER),
    tff.FederatedType(training.data_type, tff.CLIENTS),
  )
  def ours(weights, mask, data):
    trained = tff.federated_map(
      train, (tff.federated_broadcast(weights), tff.federated_broadcast(mask), data)
    )
    return trained.result, training.aggregate_metrics(trained.metrics)

  weights = initial_weights(model)
  expected = reference(theirs.initialize(), weights, datasets)
  results, metrics = ours(weights, none, datasets)
  for got, wanted in zip(results, expected.result, strict=True):
    assert got.update_weight == wanted.update_weight
    for a, b in zip(got.update, wanted.update, strict=True):
      np.testing.assert_array_equal(a, b)
  assert [r.update_weight > 0 for r in results] == [True, False, False]
  for name, value in expected.measurements['train'].items():
    np.testing.assert_array_equal(metrics[name], value)


def test_client_of_weight_zero_keeps_its_weights(rng):
  model = linear.build_model(rng)
  training = training_lib.build_training(model, OPTIMIZERS['sgd'], UNIFORM)
  x, y = linear.examples(rng, 4)
  data = linear.dataset(np.full_like(x, np.inf), y, 2)
  trained = computation(training, [(), ()])(initial_weights(model), [False, False], data)
  assert trained.result.update_weight == 0
  for before, after in zip(model.initial_weights[0], trained.trainable, strict=True):
    np.testing.assert_array_equal(after, before.astype(np.float32))


def test_refuses_bad_arguments(rng):
  with pytest.raises(TypeError, match='`model_fn` must be'):
    training_lib.build_training(3, OPTIMIZERS['sgd'])
  model = linear.build_model(rng)
  with pytest.raises(TypeError, match='`client_optimizer_fn` must be `Optimizer`'):
    training_lib.build_training(model, 0.1)
  with pytest.raises(TypeError, match='`client_weighting` must be `ClientWeighting`'):
    training_lib.build_training(model, OPTIMIZERS['sgd'], 'uniform')


def test_a_loss_may_have_branches(rng):
  def loss(output, label, sample_weight=None):
    error = tf.reduce_mean((output - label) ** 2)
    if error > 1.0:
      error *= 2.0
    return error

  @tf.function
  def predict(weights, x, training=True):
    return tf.matmul(x, weights[0][0])

  spec = (tf.TensorSpec([None, 2]), tf.TensorSpec([None, 1]))
  model = tff.learning.models.FunctionalModel(
    initial_weights=((np.ones([2, 1], np.float32),), ()),
    predict_on_batch_fn=predict,
    loss_fn=loss,
    input_spec=spec,
  )
  x = rng.normal(size=[4, 2]).astype(np.float32)
  data = tf.data.Dataset.from_tensor_slices((x, np.full([4, 1], 9, np.float32))).batch(4)
  training = training_lib.build_training(model, tff.learning.optimizers.build_sgdm(0.1))

  @tff.tensorflow.computation(training.weights_type, training.data_type)
  def train(weights, dataset):
    return training.train(weights, None, dataset).result.update

  weights = tff.learning.models.ModelWeights((np.ones([2, 1], np.float32),), ())
  update = train(weights, data)[0]
  error = x @ np.ones([2, 1]) - 9
  np.testing.assert_allclose(update, 0.1 * 2 * 2 * x.T @ error / 4, rtol=1e-5)
