"""Rounds of FedProx, SCAFFOLD, FedDyn and FedAdam against NumPy written from their equations."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_work
from tff_lowrank import codecs
from tff_lowrank import execution
from tff_lowrank import learning

optimizers = tff.learning.optimizers
sgd = optimizers.build_sgdm

RATE, BATCH, FLOATS = 0.2, 4, 21
NUMBERS = dict(a=8, b=11, c=16, d=5)
# Clients sampled in each round; d takes part late, and so has an old memory or none.
COHORTS = ('abc', 'ab', 'bcd', 'ad')
# Of each client: the same one, or one of its own.
ALIKE = dict.fromkeys(NUMBERS, RATE)
OWN = dict(a=0.2, b=0.05, c=0.4, d=0.1)
UNIFORM = tff.learning.ClientWeighting.UNIFORM
NUM_EXAMPLES = tff.learning.ClientWeighting.NUM_EXAMPLES


@pytest.fixture
def model(rng):
  return linear.build_model(rng)


@pytest.fixture
def clients(rng):
  return {c: linear.examples(rng, n) for c, n in NUMBERS.items()}


def flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def unflat(vector):
  return [vector[:18].reshape(6, 3), vector[18:]]


def optimizer(rates):
  return sgd(RATE) if rates is ALIKE else client_work.ClientRates(sgd(1.0))


def train(start, x, y, correction, rate=RATE):
  """SGD from `start`, [21], on the gradient plus `correction(w)`; w and the number of steps."""
  w, steps = start, 0
  for i in range(0, len(x), BATCH):
    gradient = flat(linear.gradients(*unflat(w), x[i : i + BATCH], y[i : i + BATCH]))
    w, steps = w - rate * (gradient + correction(w)), steps + 1
  return w, steps


def run(process, clients, cohorts=COHORTS, rates=ALIKE):
  """Yields the cohort, the model [21], the output and the memories after each round."""
  state = process.initialize()
  memory = {c: process.initialize_client() for c in clients}
  for cohort in cohorts:
    data = [
      linear.dataset(*clients[c], BATCH, None if rates is ALIKE else rates[c]) for c in cohort
    ]
    output = process.next(state, [memory[c] for c in cohort], data)
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    yield cohort, flat(process.get_model_weights(state).trainable), output, memory


def shares(cohort, weighting):
  weights = np.array([1 if weighting == UNIFORM else NUMBERS[c] for c in cohort])
  return weights / weights.sum()


def total_bits(output, direction):
  return [sum(int(bits) for bits in report[direction].values()) for report in output.reports]


@pytest.mark.parametrize(
  'weighting, rates', [(UNIFORM, ALIKE), (NUM_EXAMPLES, ALIKE), (NUM_EXAMPLES, OWN)]
)
def test_fed_prox(model, clients, weighting, rates):
  process = learning.build_fed_prox(model, optimizer(rates), mu=0.7, client_weighting=weighting)
  assert not process.has_client_state
  w = flat(model.initial_weights[0]).astype(np.float64)
  for cohort, got, output, _ in run(process, clients, rates=rates):
    start = w
    trained = [
      train(start, *clients[c], lambda v, s=start: 0.7 * (v - s), rates[c])[0] for c in cohort
    ]
    w = shares(cohort, weighting) @ trained
    np.testing.assert_allclose(got, w, atol=1e-6)
    assert (
      total_bits(output, 'uplink') == total_bits(output, 'downlink') == [32 * FLOATS] * len(cohort)
    )


@pytest.mark.each_once
@pytest.mark.parametrize('weighting', [UNIFORM, NUM_EXAMPLES])
@pytest.mark.parametrize('server_rate, rates', [(1.0, ALIKE), (0.5, ALIKE), (0.5, OWN)])
def test_scaffold(model, clients, weighting, server_rate, rates):
  process = learning.build_scaffold(
    model, optimizer(rates), sgd(server_rate), num_clients=4, client_weighting=weighting
  )
  x = flat(model.initial_weights[0]).astype(np.float64)
  c, own = np.zeros(FLOATS), {k: np.zeros(FLOATS) for k in clients}
  for cohort, got, output, memory in run(process, clients, rates=rates):
    updates, changes = [], []
    for k in cohort:
      y, steps = train(x, *clients[k], lambda v, k=k, c=c: c - own[k], rates[k])
      new = own[k] - c + (x - y) / (steps * rates[k])
      updates.append(y - x)
      changes.append(new - own[k])
      own[k] = new
    p = shares(cohort, weighting)
    x = x + server_rate * p @ updates
    c = c + len(cohort) / 4 * p @ changes
    np.testing.assert_allclose(got, x, atol=1e-5)
    np.testing.assert_allclose(flat(output.state.finalizer['correction']), c, atol=1e-5)
    for k in clients:
      np.testing.assert_allclose(flat(memory[k]['work']['control']), own[k], atol=1e-5)
    assert total_bits(output, 'uplink') == [2 * 32 * FLOATS] * len(cohort)
    assert total_bits(output, 'downlink') == [2 * 32 * FLOATS] * len(cohort)
  if weighting == UNIFORM:  # The server's control is the mean of the clients'.
    np.testing.assert_allclose(c, np.mean(list(own.values()), axis=0), atol=1e-6)


@pytest.mark.parametrize(
  'weighting, rates', [(UNIFORM, ALIKE), (NUM_EXAMPLES, ALIKE), (UNIFORM, OWN)]
)
def test_fed_dyn(model, clients, weighting, rates):
  alpha = 0.3
  process = learning.build_fed_dyn(
    model, optimizer(rates), num_clients=4, alpha=alpha, client_weighting=weighting
  )
  theta = flat(model.initial_weights[0]).astype(np.float64)
  h, own = np.zeros(FLOATS), {k: np.zeros(FLOATS) for k in clients}
  for cohort, got, output, memory in run(process, clients, rates=rates):
    trained = []
    for k in cohort:
      pull = lambda v, k=k, s=theta: -own[k] + alpha * (v - s)  # noqa: E731
      w, _ = train(theta, *clients[k], pull, rates[k])
      own[k] = own[k] - alpha * (w - theta)
      trained.append(w)
    p = shares(cohort, weighting)
    h = h - alpha * len(cohort) / 4 * (p @ trained - theta)
    theta = p @ trained - h / alpha
    np.testing.assert_allclose(got, theta, atol=1e-5)
    np.testing.assert_allclose(flat(output.state.finalizer['correction']), h / alpha, atol=1e-5)
    for k in clients:
      np.testing.assert_allclose(flat(memory[k]['work']['gradient']), own[k], atol=1e-5)
    assert total_bits(output, 'uplink') == [32 * FLOATS] * len(cohort)
    assert total_bits(output, 'downlink') == [32 * FLOATS] * len(cohort)


@pytest.mark.parametrize('build', [learning.build_fed_avg, learning.build_fed_prox])
def test_fed_adam(model, clients, build):
  """The paper's rates for FedPara: beta 0.9 and 0.99, server rate 0.01."""
  mu = 0.1 if build is learning.build_fed_prox else 0.0
  server = optimizers.build_adam(0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-3)
  w = flat(model.initial_weights[0]).astype(np.float64)
  m, v = np.zeros(FLOATS), np.zeros(FLOATS)
  for step, (cohort, got, _, _) in enumerate(run(build(model, sgd(RATE), server), clients), 1):
    start = w
    trained = [train(start, *clients[c], lambda u, s=start: mu * (u - s))[0] for c in cohort]
    update = start - shares(cohort, NUM_EXAMPLES) @ trained
    m, v = 0.9 * m + 0.1 * update, 0.99 * v + 0.01 * update**2
    rate = 0.01 * np.sqrt(1 - 0.99**step) / (1 - 0.9**step)
    w = start - rate * m / (np.sqrt(v) + 1e-3)
    np.testing.assert_allclose(got, w, atol=1e-6)


OFF = {
  'fed_prox': (lambda *a, **k: learning.build_fed_prox(*a, mu=0.0, **k), 4),
  'scaffold': (lambda *a, **k: learning.build_scaffold(*a, num_clients=4, **k), 1),
  'fed_dyn': (lambda *a, **k: learning.build_fed_dyn(*a, alpha=0.0, num_clients=4, **k), 4),
}


@pytest.mark.each_once
@pytest.mark.parametrize('method', OFF)
@pytest.mark.parametrize(
  'server, weighting',
  [(sgd(0.5, momentum=0.9), UNIFORM), (optimizers.build_adam(0.1), NUM_EXAMPLES)],
)
def test_switched_off_it_is_fed_avg_to_the_bit(model, clients, method, server, weighting):
  build, rounds = OFF[method]
  ours, plain = (
    b(model, sgd(RATE), server, client_weighting=weighting) for b in (build, learning.build_fed_avg)
  )
  for a, b in zip(
    run(ours, clients, COHORTS[:rounds]), run(plain, clients, COHORTS[:rounds]), strict=True
  ):
    np.testing.assert_array_equal(a[1], b[1])


BUILDS = {
  'fed_prox': lambda *a, **k: learning.build_fed_prox(*a, mu=0.3, **k),
  'scaffold': lambda *a, **k: learning.build_scaffold(*a, num_clients=4, **k),
  'fed_dyn': lambda *a, **k: learning.build_fed_dyn(*a, num_clients=4, **k),
}


@pytest.mark.parametrize('method', BUILDS)
def test_look_back_at_threshold_zero_changes_flags_only(model, clients, method):
  plain = run(BUILDS[method](model, sgd(RATE)), clients)
  recycled = run(BUILDS[method](model, sgd(RATE), codec=codecs.LookBack(threshold=0.0)), clients)
  num_blocks = 4 if method == 'scaffold' else 2
  for a, b in zip(plain, recycled, strict=True):
    np.testing.assert_array_equal(a[1], b[1])
    sent = zip(total_bits(a[2], 'uplink'), total_bits(b[2], 'uplink'), strict=True)
    assert all(with_flags - without == num_blocks for without, with_flags in sent)


@pytest.mark.each_once
@pytest.mark.parametrize('method', BUILDS)
@pytest.mark.parametrize('text', ['float16', 'error_feedback(top_k(0.2))', 'look_back(sign_sgd)',
                                  'drive'])  # fmt: skip
def test_goes_through_codecs(model, clients, method, text):
  process = BUILDS[method](model, sgd(RATE), codec=codecs.parse(text))
  for cohort, got, output, _ in run(process, clients):
    assert np.isfinite(got).all()
    full = 32 * FLOATS * (2 if method == 'scaffold' else 1)
    assert all(0 < bits < full for bits in total_bits(output, 'uplink')[: len(cohort)])


@pytest.mark.parametrize('method', BUILDS)
def test_clients_left_out_change_nothing(model, clients, method):
  process = BUILDS[method](model, sgd(RATE))
  x, y = clients['b']
  bad = dict(clients, b=(np.full_like(x, np.nan), y), c=(x[:0], y[:0]))
  first, second = run(process, bad, ('abc', 'bc'))
  assert [bool(r['accepted']) for r in first[2].reports] == [True, False, False]
  assert [bool(r['accepted']) for r in second[2].reports] == [False, False]
  np.testing.assert_array_equal(first[1], second[1])
  states = [tf.nest.flatten(o[2].state.finalizer) for o in (first, second)]
  for a, b in zip(*states, strict=True):
    np.testing.assert_array_equal(a, b)
  if process.has_client_state:
    for c in 'bc':
      assert not any(np.any(w) for w in tf.nest.flatten(second[3][c]['work']))
    assert np.any(second[3]['a']['work'][next(iter(second[3]['a']['work']))][0])


@pytest.mark.parametrize('method', BUILDS)
def test_stock_context_computes_the_same(model, clients, method):
  here = [flat_model for _, flat_model, _, _ in run(BUILDS[method](model, sgd(RATE)), clients)]
  with execution.stock_context():
    there = [flat_model for _, flat_model, _, _ in run(BUILDS[method](model, sgd(RATE)), clients)]
  np.testing.assert_allclose(here, there, atol=1e-6)


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

  w = np.ones(FLOATS)
  own = {k: np.zeros(FLOATS) for k in clients}
  c = np.zeros(FLOATS)
  process = learning.build_scaffold(model_fn, sgd(RATE), num_clients=4)
  for cohort, got, _, _ in run(process, clients, ('abcd', 'abcd')):
    trained = {k: train(w, *clients[k], lambda v, d=c - own[k]: d) for k in cohort}
    own = {k: own[k] - c + (w - y) / (steps * RATE) for k, (y, steps) in trained.items()}
    p = shares(cohort, NUM_EXAMPLES)
    w = p @ [trained[k][0] for k in cohort]
    c = p @ [own[k] for k in cohort]
    np.testing.assert_allclose(got, w, atol=1e-5)


def test_refuses_bad_arguments(model):
  with pytest.raises(ValueError, match='`mu`'):
    learning.build_fed_prox(model, sgd(0.1), mu=-0.1)
  with pytest.raises(ValueError, match='`alpha`'):
    learning.build_fed_dyn(model, sgd(0.1), alpha=float('nan'), num_clients=2)
  with pytest.raises(ValueError, match='`num_clients`'):
    learning.build_scaffold(model, sgd(0.1), num_clients=0)
  with pytest.raises(ValueError, match='SGD without momentum'):
    learning.build_scaffold(model, sgd(0.1, momentum=0.9), num_clients=2)
  with pytest.raises(ValueError, match='keeps whole clients out of the mean'):
    learning.build_fed_dyn(model, sgd(0.1), num_clients=2, codec=codecs.CMFL(0.5))
