"""Rounds of APF against NumPy written from the paper's equations."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.freezing import numpy_apf
from tests.learning import linear
from tff_lowrank import aggregators
from tff_lowrank import execution
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank import structures

optimizers = tff.learning.optimizers
sgd = optimizers.build_sgdm

RATE, BATCH, SIZE = 0.3, 4, 21
FAST = freezing.Settings(stability_threshold=0.4, ema_decay=0.6)


def flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def masks(process_state):
  return flat(freezing.frozen_mask(FAST, process_state.finalizer['freezing']))


def total_bits(reports, direction):
  return [sum(int(bits) for bits in report[direction].values()) for report in reports]


class NumpyFedAvgWithApf:
  """FedAvg with pinned coordinates and a heavy-ball server, float64."""

  def __init__(self, weights, settings, momentum=0.0, mu=0.0):
    self.weights = [np.float64(w) for w in weights]
    self.velocity = np.zeros(SIZE)
    self.apf = numpy_apf.NumpyApf(SIZE, settings.stability_threshold, settings.ema_decay)
    self.every, self.momentum, self.mu = settings.check_every, momentum, mu
    self.rounds, self.reference = 0, flat(self.weights)

  def split(self, vector):
    return [vector[:18].reshape(6, 3), vector[18:]]

  def train(self, x, y):
    kernel, bias = self.weights
    pinned = self.split(self.apf.frozen)
    for start in range(0, len(x), BATCH):
      batch = slice(start, start + BATCH)
      gradients = linear.gradients(kernel, bias, x[batch], y[batch])
      stepped = [
        w - RATE * (g + self.mu * (w - w0))
        for w, w0, g in zip((kernel, bias), self.weights, gradients, strict=True)
      ]
      kernel, bias = (
        np.where(p, w, s) for p, w, s in zip(pinned, self.weights, stepped, strict=True)
      )
    return flat([kernel, bias])

  def round(self, clients):
    total = sum(len(x) for x, _ in clients)
    old, frozen = flat(self.weights), self.apf.frozen
    mean = sum(len(x) / total * (old - self.train(x, y)) for x, y in clients)
    self.velocity = np.where(frozen, self.velocity, self.momentum * self.velocity + mean)
    new = np.where(frozen, old, old - self.velocity)
    self.weights = self.split(new)
    self.rounds += 1
    if self.rounds % self.every == 0:
      self.apf.check(new - self.reference)
      self.reference = new


@pytest.mark.parametrize(
  'check_every, momentum, mu', [(1, 0.0, 0.0), (1, 0.8, 0.0), (3, 0.0, 0.0), (1, 0.0, 1.5)]
)
def test_rounds_equal_numpy(rng, check_every, momentum, mu):
  settings = freezing.Settings(stability_threshold=0.4, ema_decay=0.6, check_every=check_every)
  model = linear.build_model(rng)
  clients = [linear.examples(rng, n) for n in (8, 11, 16)]
  process = learning.build_apf_fed_avg(
    model, sgd(RATE), sgd(1.0, momentum=momentum or None), freezing_settings=settings, mu=mu
  )
  reference = NumpyFedAvgWithApf(model.initial_weights[0], settings, momentum, mu)
  state, memory = process.initialize(), [process.initialize_client()] * 3
  fractions = set()
  for round_num in range(30):
    # Noise, or nothing would oscillate.
    noisy = [(x + rng.normal(size=x.shape).astype(np.float32), y) for x, y in clients]
    frozen = reference.apf.frozen
    before = flat(process.get_model_weights(state).trainable)
    output = process.next(state, memory, [linear.dataset(x, y, BATCH) for x, y in noisy])
    state, memory = output.state, output.client_states
    reference.round(noisy)
    after = flat(process.get_model_weights(state).trainable)
    np.testing.assert_allclose(after, flat(reference.weights), atol=1e-4)
    np.testing.assert_array_equal(after[frozen], before[frozen])
    kept = state.finalizer['freezing']
    got = flat(freezing.frozen_mask(settings, kept))
    np.testing.assert_array_equal(got, reference.apf.frozen, f'round {round_num}')
    np.testing.assert_array_equal(flat(kept.period), reference.apf.L)
    assert total_bits(output.reports, 'uplink') == [32 * int((~frozen).sum())] * 3
    measured = output.metrics['finalizer']['freezing']
    np.testing.assert_allclose(measured['frozen_fraction'], got.mean(), rtol=1e-6)
    fractions.add(int(got.sum()))
  assert len(fractions) > 2 and max(fractions) > 2


@pytest.mark.each_once
@pytest.mark.parametrize('server', [sgd(1.0), sgd(0.5, momentum=0.9), optimizers.build_adam(0.1)])
@pytest.mark.parametrize('client', [sgd(0.1), optimizers.build_adam(0.05)])
def test_threshold_zero_is_fed_avg_to_the_bit_and_byte(rng, server, client):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, n), BATCH) for n in (8, 11, 16)]
  off = freezing.Settings(stability_threshold=0)
  ours = learning.build_apf_fed_avg(model, client, server, freezing_settings=off)
  partial = learning.build_partial_sync_fed_avg(
    model, client, server, freezing_settings=freezing.Settings(0, control='permanent')
  )
  plain = learning.build_fed_avg(model, client, server)
  theirs = tff.learning.algorithms.build_weighted_fed_avg(model, client, server)
  states = [p.initialize() for p in (ours, partial, plain)]
  memories = [[p.initialize_client()] * 3 for p in (ours, partial, plain)]
  state = theirs.initialize()
  for round_num in range(4):
    cohort = [0, 1, 2] if round_num % 2 else [0, 2]  # Client 1 misses rounds.
    expected = theirs.next(state, [data[k] for k in cohort])
    state = expected.state
    wanted = theirs.get_model_weights(state).trainable
    costs = []
    for i, process in enumerate((ours, partial, plain)):
      output = process.next(states[i], [memories[i][k] for k in cohort], [data[k] for k in cohort])
      states[i] = output.state
      for k, memory in zip(cohort, output.client_states, strict=True):
        memories[i][k] = memory
      got = process.get_model_weights(states[i]).trainable
      for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
      costs.append([(dict(r['uplink']), dict(r['downlink'])) for r in output.reports])
      assert total_bits(output.reports, 'uplink') == [32 * SIZE] * len(cohort)
      assert total_bits(output.reports, 'downlink') == [32 * SIZE] * len(cohort)
      train = output.metrics['client_work']['train']
      assert dict(train) == dict(expected.metrics['client_work']['train'])
    assert costs[0] == costs[1] == costs[2]


def test_full_participation_costs_the_active_values_each_way(rng):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, 8), 2) for _ in range(2)]
  for policy in ('derived', 'server'):
    process = learning.build_apf_fed_avg(
      model, sgd(1.0), freezing_settings=FAST, mask_policy=policy
    )
    state, memory = process.initialize(), [process.initialize_client()] * 2
    active_before = SIZE
    for _ in range(12):
      frozen = masks(state)
      active = SIZE - int(frozen.sum())
      output = process.next(state, memory, data)
      state, memory = output.state, output.client_states
      # Up go the active values; down come those that the round before changed. Twenty-one
      # coordinates: an index takes 5 bits, a bitmap 21.
      mask_bits = 0 if policy == 'derived' else min(21, 5 * (SIZE - active))
      assert total_bits(output.reports, 'uplink') == [32 * active] * 2
      assert total_bits(output.reports, 'downlink') == [32 * active_before + mask_bits] * 2
      active_before = active
    assert active < SIZE


def test_clients_that_miss_rounds_pay_for_it(rng):
  model = linear.build_model(rng)
  data = {c: linear.dataset(*linear.examples(rng, 8), 2) for c in 'abc'}
  process = learning.build_apf_fed_avg(model, sgd(1.0), freezing_settings=FAST)
  memory = {c: process.initialize_client() for c in 'abc'}
  # What each client has, as numbers, and the models that were broadcast.
  state, has, last = process.initialize(), {}, {}
  changed = np.zeros(SIZE, int)
  for round_num, cohort in enumerate(['ab', 'a', 'a', 'ab', 'a', 'a', 'a', 'abc', 'bc', 'a']):
    frozen = masks(state)
    broadcast = flat(process.get_model_weights(state).trainable)
    output = process.next(state, [memory[c] for c in cohort], [data[c] for c in cohort])
    for c, bits in zip(cohort, output.reports, strict=True):
      known = last.get(c, -1)
      lacking = changed > known
      down = bits['downlink']
      assert (down['payload'] + down['catch_up']) == 32 * lacking.sum()
      assert down['payload'] == 32 * (changed == round_num)[lacking].sum()
      mask = min(21, 5 * int(frozen.sum()))
      missed = 0 <= known < round_num - 1 and not lacking.all()
      which = min(21, 5 * int(lacking.sum())) if missed else 0
      assert down['index_or_mask'] == mask + which
      # What it was charged for brings it up to date.
      has[c] = np.where(lacking, broadcast, has.get(c, np.nan))
      np.testing.assert_array_equal(has[c], broadcast)
      last[c] = round_num
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    changed[~frozen] = round_num + 1
  assert (changed < 10).any()


def test_always_present_clients_derive_the_same_masks(rng):
  settings = freezing.Settings(
    stability_threshold=0.4, ema_decay=0.6, aggressive='one_round', seed=11
  )
  model = linear.build_model(rng)
  # Different amounts of data, and one client that never counts.
  data = [linear.dataset(*linear.examples(rng, n), 2) for n in (4, 20, 6)]
  x, y = linear.examples(rng, 4)
  data.append(linear.dataset(np.full_like(x, np.nan), y, 2))
  process = learning.build_apf_fed_avg(model, sgd(0.5), freezing_settings=settings)
  state, memory = process.initialize(), [process.initialize_client()] * 4
  weights = process.get_model_weights(state).trainable
  derived = freezing.initial_state(settings, structures.specs(weights))
  for _ in range(8):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    new = process.get_model_weights(state).trainable
    derived = freezing.next_round(
      settings, derived, [np.subtract(a, b) for a, b in zip(new, weights, strict=True)]
    )
    weights = new
    kept = state.finalizer['freezing']
    np.testing.assert_array_equal(flat(derived.wake), flat(kept.wake))
    np.testing.assert_array_equal(derived.threshold, kept.threshold)
  assert (flat(kept.wake) > int(kept.round)).any()


def test_all_frozen_sends_nothing_and_goes_on(rng):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, 8), 2)] * 2
  process = learning.build_apf_fed_avg(
    model, sgd(0.5), freezing_settings=freezing.Settings(2.0, control='permanent'),
    mask_policy='derived',
  )  # fmt: skip
  state, memory = process.initialize(), [process.initialize_client()] * 2
  weights = []
  for _ in range(4):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    weights.append(flat(process.get_model_weights(state).trainable))
  assert output.metrics['finalizer']['freezing']['frozen_fraction'] == 1
  assert total_bits(output.reports, 'uplink') == [0, 0]
  assert total_bits(output.reports, 'downlink') == [0, 0]
  np.testing.assert_array_equal(weights[0], weights[-1])
  assert state.finalizer['freezing'].round == 4


def test_round_without_survivors_changes_nothing_but_what_clients_know(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 8)
  process = learning.build_apf_fed_avg(model, sgd(0.5), sgd(1.0, 0.9), freezing_settings=FAST)
  first = process.next(
    process.initialize(), [process.initialize_client()], [linear.dataset(x, y, 2)]
  )
  poisoned = linear.dataset(np.full_like(x, np.nan), y, 2)
  second = process.next(first.state, first.client_states, [poisoned])
  for a, b in zip(tf.nest.flatten(first.state), tf.nest.flatten(second.state), strict=True):
    np.testing.assert_array_equal(a, b)
  third = process.next(second.state, second.client_states, [linear.dataset(x, y, 2)])
  # It had that version already.
  assert total_bits(third.reports, 'downlink') == [0]
  assert total_bits(second.reports, 'uplink') == [0]


def test_server_momentum_waits_for_frozen_coordinates(rng):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, 8), 2)]
  settings = freezing.Settings(2.0, control='fixed', threshold_floor=2.0)
  for server, slots in (
    (sgd(1.0, momentum=0.9), ['accumulator']),
    (optimizers.build_adam(0.1), ['accumulator', 'preconditioner']),
    (optimizers.build_adamw(0.1, weight_decay=0.1), ['accumulator', 'preconditioner']),
  ):
    process = learning.build_apf_fed_avg(model, sgd(0.1), server, freezing_settings=settings)
    first = process.next(process.initialize(), [process.initialize_client()], data)
    second = process.next(first.state, first.client_states, data)
    assert masks(first.state).all()
    for slot in slots:
      a, b = (s.finalizer['optimizer'][slot] for s in (first.state, second.state))
      np.testing.assert_array_equal(flat(a), flat(b))
    weights = [flat(process.get_model_weights(s).trainable) for s in (first.state, second.state)]
    np.testing.assert_array_equal(*weights)


def test_mean_factory_and_settings_reach_their_places(rng):
  model = linear.build_model(rng)
  process = learning.build_apf_fed_avg(
    model,
    sgd(0.1),
    client_weighting=tff.learning.ClientWeighting.UNIFORM,
    mean_factory=tff.aggregators.MeanFactory(no_nan_division=True),
    freezing_settings=freezing.Settings(granularity='tensor', window=4),
  )
  data = [linear.dataset(*linear.examples(rng, n), 2) for n in (2, 8)]
  memory = [process.initialize_client()] * 2
  output = process.next(process.initialize(), memory, data)
  trained = [linear.train(model.initial_weights[0], *d, 2, 0.1) for d in _arrays(data)]
  for got, a, b in zip(process.get_model_weights(output.state).trainable, *trained, strict=True):
    np.testing.assert_allclose(got, (a + b) / 2, atol=1e-6)
  weights = process.get_client_model_weights(output.state, output.client_states[0])
  np.testing.assert_array_equal(flat(weights.trainable), flat(output.state[0].trainable))


def _arrays(data):
  for dataset in data:
    batches = list(dataset.as_numpy_iterator())
    yield [np.concatenate([b[name] for b in batches]) for name in 'xy']


def test_refuses_bad_arguments(rng):
  model = linear.build_model(rng)
  with pytest.raises(TypeError, match='`freezing_settings` must be `Settings`'):
    learning.build_apf_fed_avg(model, sgd(0.1), freezing_settings=0.05)
  with pytest.raises(ValueError, match="`mask_policy` must be one of 'server', 'derived'"):
    learning.build_apf_fed_avg(model, sgd(0.1), mask_policy='free')
  with pytest.raises(TypeError, match='`mean_factory` must be'):
    learning.build_apf_fed_avg(model, sgd(0.1), mean_factory=aggregators.lift)
  with pytest.raises(ValueError, match="control` must be one of 'permanent', found 'aimd'"):
    learning.build_partial_sync_fed_avg(model, sgd(0.1), freezing_settings=FAST)
  with pytest.raises(ValueError, match='`mu` must be'):
    learning.build_apf_fed_avg(model, sgd(0.1), mu=-1)
  with pytest.raises(TypeError, match='no client state'):
    learning.build_apf_fed_avg(model, sgd(0.1)).as_learning_process()


def test_same_on_tffs_own_context(rng):
  model = linear.build_model(rng)
  examples = [linear.examples(rng, n) for n in (8, 12)]
  settings = freezing.Settings(
    stability_threshold=0.4, ema_decay=0.6, check_every=2, aggressive='one_round'
  )

  def run():
    process = learning.build_apf_fed_avg(model, sgd(0.5), freezing_settings=settings)
    state, memory = process.initialize(), [process.initialize_client()] * 2
    for _ in range(6):
      data = [linear.dataset(x, y, BATCH) for x, y in examples]
      output = process.next(state, memory, data)
      state, memory = output.state, output.client_states
    return process.get_model_weights(state).trainable, state.finalizer['freezing'], output.reports

  weights, kept, reports = run()
  with execution.stock_context():
    stock_weights, stock_kept, stock_reports = run()
  np.testing.assert_allclose(flat(weights), flat(stock_weights), atol=1e-5)
  np.testing.assert_array_equal(flat(kept.wake), flat(stock_kept.wake))
  assert any(w > int(kept.round) // 2 for w in flat(kept.wake))
  for a, b in zip(reports, stock_reports, strict=True):
    assert dict(a['downlink']) == dict(b['downlink'])
