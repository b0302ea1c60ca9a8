"""FedPara is FedAvg over factors, and goes with what FedAvg goes with."""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.freezing import numpy_apf
from tests.learning import linear
from tff_lowrank import freezing
from tff_lowrank import layers
from tff_lowrank import learning

sgd = tff.learning.optimizers.build_sgdm

RATE, BATCH = 0.1, 4


def keras_model():
  inputs = tf.keras.layers.Input((linear.FEATURES,))
  x = layers.FedParaDense(8, rank=2, activation='relu')(inputs)
  outputs = layers.FedParaDense(linear.CLASSES, rank=2)(x)
  return tf.keras.Model(inputs, outputs)


LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture
def model():
  tf.keras.utils.set_random_seed(1)
  return tff.learning.models.functional_model_from_keras(
    keras_model(),
    LOSS,
    collections.OrderedDict(
      x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)
    ),
  )


def centralised(weights, x, y, passes=1, pinned=None):
  """SGD on the factors that starts from `weights`, where `pinned` coordinates stay."""
  pinned = pinned or [np.zeros(w.shape, bool) for w in weights]
  keras = keras_model()
  for variable, value in zip(keras.trainable_variables, weights, strict=True):
    variable.assign(value)
  for start in list(range(0, len(x), BATCH)) * passes:
    with tf.GradientTape() as tape:
      loss = LOSS(y[start : start + BATCH], keras(x[start : start + BATCH], training=True))
    gradients = tape.gradient(loss, keras.trainable_variables)
    for variable, gradient, pin in zip(keras.trainable_variables, gradients, pinned, strict=True):
      variable.assign_sub(np.where(pin, 0, RATE * gradient))
  return [v.numpy() for v in keras.trainable_variables]


def rounds(process, data, count=3):
  state, memory = process.initialize(), [process.initialize_client()] * len(data)
  for _ in range(count):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
  return process.get_model_weights(state).trainable


def test_one_client_trains_as_if_there_were_no_federation(rng, model):
  x, y = linear.examples(rng, 11)
  got = rounds(learning.build_fed_avg(model, sgd(RATE)), [linear.dataset(x, y, BATCH)], count=3)
  wanted = centralised(model.initial_weights[0], x, y, passes=3)
  for a, b in zip(got, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_factors_are_averaged(rng, model):
  clients = [linear.examples(rng, n) for n in (4, 12)]
  data = [linear.dataset(x, y, BATCH) for x, y in clients]
  got = rounds(learning.build_fed_avg(model, sgd(RATE)), data, count=1)
  trained = [centralised(model.initial_weights[0], x, y) for x, y in clients]
  for weight, a, b in zip(got, *trained, strict=True):
    np.testing.assert_allclose(weight, (4 * a + 12 * b) / 16, atol=1e-5)


def test_apf_freezes_factors(rng, model):
  settings = freezing.Settings(stability_threshold=0.5, ema_decay=0.6)
  process = learning.build_apf_fed_avg(model, sgd(RATE), freezing_settings=settings)
  wanted = [np.float64(w) for w in model.initial_weights[0]]
  ends = np.cumsum([w.size for w in wanted])
  apf = numpy_apf.NumpyApf(ends[-1], settings.stability_threshold, settings.ema_decay)
  state, memory = process.initialize(), [process.initialize_client()] * 2
  most = 0
  for _ in range(12):
    clients = [linear.examples(rng, 8) for _ in range(2)]
    output = process.next(state, memory, [linear.dataset(x, y, BATCH) for x, y in clients])
    state, memory = output.state, output.client_states
    frozen = apf.frozen
    parts = np.split(frozen, ends[:-1])
    pinned = [part.reshape(w.shape) for part, w in zip(parts, wanted, strict=True)]
    trained = [centralised(wanted, x, y, pinned=pinned) for x, y in clients]
    means = [np.mean(pair, 0) for pair in zip(*trained, strict=True)]
    apf.check(np.concatenate([np.ravel(new - w) for new, w in zip(means, wanted, strict=True)]))
    wanted = means
    for a, b in zip(process.get_model_weights(state).trainable, wanted, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-4)
    bits = [sum(int(b) for b in report['uplink'].values()) for report in output.reports]
    assert bits == [32 * int((~frozen).sum())] * 2
    most = max(most, int(frozen.sum()))
  assert most > 10


SWITCHED_OFF = dict(
  lbgm=lambda *a: learning.build_lbgm_fed_avg(*a, threshold=0.0),
  apf=lambda *a: learning.build_apf_fed_avg(*a, freezing_settings=freezing.Settings(0)),
  fed_prox=lambda *a: learning.build_fed_prox(*a, mu=0.0),
  fed_dyn=lambda *a: learning.build_fed_dyn(*a, alpha=0.0, num_clients=2),
)


def test_other_methods_switched_off_leave_it_as_it_is(rng, model):
  data = [linear.dataset(*linear.examples(rng, n), BATCH) for n in (8, 5)]
  wanted = rounds(learning.build_fed_avg(model, sgd(RATE)), data)
  for name, build in SWITCHED_OFF.items():
    for a, b in zip(rounds(build(model, sgd(RATE)), data), wanted, strict=True):
      np.testing.assert_array_equal(a, b, err_msg=name)
