"""Every builder trains what TFF's own FedAvg trains: weights of any float, also of several in one.

TFF's FedAvg has limits of its own, which are not lifted here: its mean takes no bfloat16, and its
optimizers with momentum multiply no float32 rate with float64 or float16 weights.
"""

import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import aggregators
from tff_lowrank import client_work
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank.learning.composition import process as process_lib

RATE = 0.1
SGD = tff.learning.optimizers.build_sgdm(RATE)
DECAYING = client_work.exponential_decay(SGD, 0.5)
# Of the layers of a model.
DTYPES = {
  'float64': ('float64', 'float64'),
  'float16': ('float16', 'float16'),
  'mixed': ('float32', 'float64', 'float16'),
}


def keras_model(dtypes):
  layers = [tf.keras.layers.Dense(4, 'tanh', dtype=dtype) for dtype in dtypes[:-1]]
  return tf.keras.Sequential([
    tf.keras.layers.InputLayer((linear.FEATURES,)), *layers,
    tf.keras.layers.Dense(linear.CLASSES, dtype=dtypes[-1]),
  ])  # fmt: skip


SPEC = collections.OrderedDict(
  x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)
)
LOSS = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def functional(dtypes):
  return tff.learning.models.functional_model_from_keras(keras_model(dtypes), LOSS, SPEC)


def with_variables(dtypes):
  return lambda: tff.learning.models.from_keras_model(keras_model(dtypes), LOSS, SPEC)


def personal(model, optimizer):
  num_weights = len(client_work.personal_weights.initial_values(model).trainable)
  mask = [i % 2 == 0 for i in range(num_weights)]
  return learning.build_personal_fed_avg(model, optimizer, personal=mask)


EACH_ROUND = freezing.Settings(check_every=1)
BUILDS = {
  'fed_avg': learning.build_fed_avg,
  'fed_prox': learning.build_fed_prox,
  'scaffold': lambda *a: learning.build_scaffold(*a, num_clients=2),
  'fed_dyn': lambda *a: learning.build_fed_dyn(*a, num_clients=2),
  'lbgm': learning.build_lbgm_fed_avg,
  'lbgm_shared': learning.build_shared_lbgm_fed_avg,
  'apf': lambda *a: learning.build_apf_fed_avg(*a, freezing_settings=EACH_ROUND, mu=0.1),
  'apf_coded': lambda *a: learning.build_apf_fed_avg(
    *a, freezing_settings=EACH_ROUND, codec=codecs.parse('error_feedback(top_k(0.5))')
  ),
  'partial_sync': learning.build_partial_sync_fed_avg,
  'personal': personal,
  'local_only': learning.build_local_only,
  'downlink': lambda *a: learning.build_fed_avg(*a, downlink=codecs.parse('top_k(0.5)')),
  'freezing_factory': lambda *a: process_lib.build_process(
    *a, model_aggregator=aggregators.FreezingFactory(EACH_ROUND)
  ),
}


def train(process, rng):
  """The trained weights after three rounds of two clients; they differ from the first ones."""
  data = [linear.dataset(*linear.examples(rng, 8), 4) for _ in range(2)]
  state, memory = process.initialize(), [process.initialize_client()] * 2
  for _ in range(3):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    assert all(report['accepted'] for report in output.reports)
  return process.get_client_model_weights(state, memory[0]).trainable


def check(process, model, rng):
  trained = train(process, rng)
  initial = client_work.personal_weights.initial_values(model).trainable
  for after, before in zip(trained, initial, strict=True):
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert np.isfinite(after).all()
  assert np.any(trained[0])


@pytest.mark.each_once
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', BUILDS)
def test_functional_models(name, dtype, rng):
  model = functional(DTYPES[dtype])
  check(BUILDS[name](model, SGD), model, rng)


@pytest.mark.each_once
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('name', ['fed_avg', 'scaffold', 'fed_dyn', 'apf'])
def test_models_with_variables_and_a_schedule(name, dtype, rng):
  model = with_variables(DTYPES[dtype])
  check(BUILDS[name](model, DECAYING), model, rng)


@pytest.mark.slow
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('text', [
  'identity', 'top_k(0.3, granularity=model)', 'random_k(0.5, granularity=model)', 'sign_sgd(True)',
  'qsgd(7)', 'float16', 'terngrad(2.5)', 'atomo(1)', 'truncated_svd(1)',
  'error_feedback(power_sgd(1))',
  'drive', 'gaia(0.1)', 'cmfl(0.4)', 'look_back(top_k(0.5), 0.2, model)',
])  # fmt: skip
def test_codecs(text, dtype, rng):
  model = functional(DTYPES[dtype])
  check(learning.build_compressed_fed_avg(model, SGD, codec=codecs.parse(text)), model, rng)


@pytest.mark.parametrize('name', sorted(set(BUILDS) - {'local_only'}))  # That has no mean.
def test_what_tff_refuses_is_refused(name):
  model = functional(('bfloat16', 'bfloat16'))
  with pytest.raises(TypeError, match='must be of floating dtype'):
    tff.learning.algorithms.build_weighted_fed_avg(model, SGD)
  with pytest.raises(TypeError, match='must be of floating dtype'):
    BUILDS[name](model, SGD)


def test_client_weights_of_bfloat16_stay_at_clients(rng):
  model = functional(('bfloat16', 'bfloat16'))
  check(learning.build_local_only(model, SGD), model, rng)


def step(w, x, y, correction):
  """SGD of one batch in float64; TFF has the rate as a float32."""
  gradient = linear.gradients(w[0], w[1], x, y)
  return [a - np.float64(np.float32(RATE)) * (g + c)
          for a, g, c in zip(w, gradient, correction, strict=True)]  # fmt: skip


@pytest.mark.parametrize('method', ['scaffold', 'fed_dyn'])
def test_rounds_of_float64_are_numpys(method, rng):
  """To a precision that float32 anywhere but in the rate would not have."""
  model, rate = functional(('float64',)), np.float64(np.float32(RATE))
  process = BUILDS[method](model, SGD)
  clients = [linear.examples(rng, 8) for _ in range(2)]
  data = [linear.dataset(x, y, 8) for x, y in clients]
  w = [np.float64(x) for x in model.initial_weights[0]]
  own = [[np.zeros_like(x) for x in w] for _ in clients]
  server = [np.zeros_like(x) for x in w]
  state, memory = process.initialize(), [process.initialize_client()] * 2
  for _ in range(3):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    trained = []
    for k, (x, y) in enumerate(clients):
      x = np.float64(x)
      if method == 'scaffold':
        correction = [c - o for c, o in zip(server, own[k], strict=True)]
      else:  # The pull to the start is 0 in a first step.
        correction = [-g for g in own[k]]
      trained.append(step(w, x, y, correction))
    moves = [[a - b for a, b in zip(w, t, strict=True)] for t in trained]
    if method == 'scaffold':
      new = [[u / rate - (c - o) for u, c, o in zip(m, server, old, strict=True)]
             for m, old in zip(moves, own, strict=True)]  # fmt: skip
      server = [np.mean(c, 0) for c in zip(*new, strict=True)]
      shift = [0] * len(w)
    else:
      new = [[g + 0.1 * u for g, u in zip(old, m, strict=True)]
             for m, old in zip(moves, own, strict=True)]  # fmt: skip
      server = [h + np.mean(u, 0) for h, u in zip(server, zip(*moves, strict=True), strict=True)]
      shift = server
    own = new
    means = [np.mean(t, 0) for t in zip(*trained, strict=True)]
    w = [m - s for m, s in zip(means, shift, strict=True)]
    for found, expected in zip(process.get_model_weights(state).trainable, w, strict=True):
      np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
