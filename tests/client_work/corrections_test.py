import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank.client_work import corrections
from tff_lowrank.client_work import training as training_lib

optimizers = tff.learning.optimizers

RATE, BATCH = 0.2, 4


@pytest.fixture
def model(rng):
  return linear.build_model(rng)


def evaluate(training, function, *structures, data):
  """`function(*structures, dataset)` in a TFF computation, as models are only usable in one."""
  types = [tff.types.tensorflow_to_type(tf.nest.map_structure(tf.TensorSpec.from_tensor, s))
           for s in structures]  # fmt: skip
  computation = tff.tensorflow.computation(function, [*types, training.data_type])
  return computation(*structures, data)


def tensors(arrays):
  return tuple(tf.constant(a, tf.float32) for a in arrays)


def sgd_with(offset, strength, start, x, y):
  """Steps on the gradient plus `offset + strength (w - start)`."""
  w = [np.float64(s) for s in start]
  for i in range(0, len(x), BATCH):
    gradients = linear.gradients(*w, x[i : i + BATCH], y[i : i + BATCH])
    w = [
      a - RATE * (g + o + strength * (a - s))
      for a, g, o, s in zip(w, gradients, offset, start, strict=True)
    ]
  return w


def test_corrections_are_of_each_step(rng, model):
  training = training_lib.build_training(model, optimizers.build_sgdm(RATE))
  x, y = linear.examples(rng, 11)
  start = model.initial_weights[0]
  own, control = ([rng.normal(size=w.shape) for w in start] for _ in range(2))
  weights = tff.learning.models.ModelWeights(tensors(start), ())
  data = linear.dataset(x, y, BATCH)
  zero = [0.0, 0.0]

  proximal = evaluate(
    training,
    lambda w, d: corrections.proximal(training, 0.5).train(w, None, d),
    weights,
    data=data,
  )
  for got, wanted in zip(proximal.trainable, sgd_with(zero, 0.5, start, x, y), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-6)
  assert proximal.num_steps == 3

  controlled = evaluate(
    training,
    lambda o, w, c, d: corrections.train_controlled(training, o, w, c, d),
    tensors(own), weights, tensors(control), data=data,
  )  # fmt: skip
  end = sgd_with([c - o for c, o in zip(control, own, strict=True)], 0, start, x, y)
  update = controlled.result.update
  for i, (o, c, s, e) in enumerate(zip(own, control, start, end, strict=True)):
    np.testing.assert_allclose(update.model[i], s - e, atol=1e-6)
    np.testing.assert_allclose(controlled.memory[i], o - c + (s - e) / (3 * RATE), atol=1e-5)
    np.testing.assert_allclose(update.control[i], controlled.memory[i] - o, atol=1e-5)

  dynamic = evaluate(
    training,
    lambda o, w, d: corrections.train_dynamic(training, 0.5, o, w, d),
    tensors(own), weights, data=data,
  )  # fmt: skip
  end = sgd_with([-o for o in own], 0.5, start, x, y)
  for i, (o, s, e) in enumerate(zip(own, start, end, strict=True)):
    np.testing.assert_allclose(dynamic.result.update[i], s - e, atol=1e-6)
    np.testing.assert_allclose(dynamic.memory[i], o - 0.5 * (e - s), atol=1e-6)


def test_control_is_the_mean_gradient_at_the_model_for_one_step(rng, model):
  training = training_lib.build_training(model, optimizers.build_sgdm(RATE))
  x, y = linear.examples(rng, 8)
  start = model.initial_weights[0]
  own, control = ([rng.normal(size=w.shape) for w in start] for _ in range(2))
  done = evaluate(
    training,
    lambda o, w, c, d: corrections.train_controlled(training, o, w, c, d),
    tensors(own), tff.learning.models.ModelWeights(tensors(start), ()), tensors(control),
    data=linear.dataset(x, y, 8),
  )  # fmt: skip
  for got, wanted in zip(done.memory, linear.gradients(*start, x, y), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_client_without_examples_keeps_its_memory(rng, model):
  training = training_lib.build_training(model, optimizers.build_sgdm(RATE))
  x, y = linear.examples(rng, 4)
  own = tensors([rng.normal(size=w.shape) for w in model.initial_weights[0]])
  weights = tff.learning.models.ModelWeights(tensors(model.initial_weights[0]), ())
  done = evaluate(
    training,
    lambda o, w, c, d: corrections.train_controlled(training, o, w, c, d),
    own, weights, own, data=linear.dataset(x[:0], y[:0], 4),
  )  # fmt: skip
  assert done.result.update_weight == 0
  for got, wanted, change in zip(done.memory, own, done.result.update.control, strict=True):
    np.testing.assert_array_equal(got, wanted)
    assert not np.any(change)


def test_rate_of_plain_sgd():
  corrections.check_plain_sgd(optimizers.build_sgdm(0.25))
  for other in (
    optimizers.build_sgdm(0.25, momentum=0.5),
    optimizers.build_adam(0.1),
    optimizers.build_adagrad(0.1),
    optimizers.build_yogi(0.1),
    optimizers.build_rmsprop(0.1),
  ):
    with pytest.raises(ValueError, match='SGD without momentum'):
      corrections.check_plain_sgd(other)
  with pytest.raises(ValueError, match='must be above 0'):
    corrections.check_plain_sgd(optimizers.build_sgdm(0.0))
  with pytest.raises(TypeError, match='`client_optimizer_fn`'):
    corrections.check_plain_sgd('sgd')
