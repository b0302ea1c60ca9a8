"""What FedProx, SCAFFOLD and FedDyn have in common; and FedAdam."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tests.learning import tiny
from tff_lowrank import codecs
from tff_lowrank import execution
from tff_lowrank import learning

optimizers = tff.learning.optimizers
sgd = tff.learning.optimizers.build_sgdm


@pytest.mark.parametrize('build', [learning.build_fed_avg, learning.build_fed_prox])
def test_fed_adam(model, clients, build):
  """The paper's rates for FedPara: beta 0.9 and 0.99, server rate 0.01."""
  mu = 0.1 if build is learning.build_fed_prox else 0.0
  server = optimizers.build_adam(0.01, beta_1=0.9, beta_2=0.99, epsilon=1e-3)
  w = tiny.flat(model.initial_weights[0]).astype(np.float64)
  m, v = np.zeros(tiny.FLOATS), np.zeros(tiny.FLOATS)
  for step, (cohort, got, _, _) in enumerate(
    tiny.run(build(model, sgd(tiny.RATE), server), clients), 1
  ):
    start = w
    trained = [tiny.train(start, *clients[c], lambda u, s=start: mu * (u - s))[0] for c in cohort]
    update = start - tiny.shares(cohort, tiny.NUM_EXAMPLES) @ trained
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
  [(sgd(0.5, momentum=0.9), tiny.UNIFORM), (optimizers.build_adam(0.1), tiny.NUM_EXAMPLES)],
)
def test_switched_off_it_is_fed_avg_to_the_bit(model, clients, method, server, weighting):
  build, rounds = OFF[method]
  ours, plain = (
    b(model, sgd(tiny.RATE), server, client_weighting=weighting)
    for b in (build, learning.build_fed_avg)
  )
  for a, b in zip(
    tiny.run(ours, clients, tiny.COHORTS[:rounds]),
    tiny.run(plain, clients, tiny.COHORTS[:rounds]),
    strict=True,
  ):
    np.testing.assert_array_equal(a[1], b[1])


BUILDS = {
  'fed_prox': lambda *a, **k: learning.build_fed_prox(*a, mu=0.3, **k),
  'scaffold': lambda *a, **k: learning.build_scaffold(*a, num_clients=4, **k),
  'fed_dyn': lambda *a, **k: learning.build_fed_dyn(*a, num_clients=4, **k),
}


@functools.cache
def without_codec(method):
  """A process that tests share, of the model that the fixture gives to each."""
  return BUILDS[method](linear.build_model(np.random.default_rng(0)), sgd(tiny.RATE))


@pytest.mark.parametrize('method', BUILDS)
def test_look_back_at_threshold_zero_changes_flags_only(model, clients, method):
  plain = tiny.run(without_codec(method), clients)
  recycled = tiny.run(
    BUILDS[method](model, sgd(tiny.RATE), codec=codecs.LookBack(threshold=0.0)), clients
  )
  num_blocks = 4 if method == 'scaffold' else 2
  for a, b in zip(plain, recycled, strict=True):
    np.testing.assert_array_equal(a[1], b[1])
    sent = zip(tiny.total_bits(a[2], 'uplink'), tiny.total_bits(b[2], 'uplink'), strict=True)
    assert all(with_flags - without == num_blocks for without, with_flags in sent)


@pytest.mark.each_once
@pytest.mark.parametrize('method', BUILDS)
@pytest.mark.parametrize('text', ['float16', 'error_feedback(top_k(0.2))', 'look_back(sign_sgd)',
                                  'drive'])  # fmt: skip
def test_goes_through_codecs(model, clients, method, text):
  process = BUILDS[method](model, sgd(tiny.RATE), codec=codecs.parse(text))
  for cohort, got, output, _ in tiny.run(process, clients):
    assert np.isfinite(got).all()
    full = 32 * tiny.FLOATS * (2 if method == 'scaffold' else 1)
    assert all(0 < bits < full for bits in tiny.total_bits(output, 'uplink')[: len(cohort)])


@pytest.mark.parametrize('method', BUILDS)
def test_clients_left_out_change_nothing(model, clients, method):
  process = without_codec(method)
  x, y = clients['b']
  bad = dict(clients, b=(np.full_like(x, np.nan), y), c=(x[:0], y[:0]))
  first, second = tiny.run(process, bad, ('abc', 'bc'))
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
  process = without_codec(method)
  here = [got for _, got, _, _ in tiny.run(process, clients)]
  with execution.stock_context():
    there = [got for _, got, _, _ in tiny.run(process, clients)]
  np.testing.assert_allclose(here, there, atol=1e-6)
