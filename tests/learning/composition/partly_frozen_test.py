"""Partial synchronisation: clients keep their own values of what left the synchronisation."""

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank.learning.composition import partly_frozen

sgd = tff.learning.optimizers.build_sgdm

RATE, BATCH, SIZE = 0.3, 4, 21
SETTINGS = freezing.Settings(stability_threshold=0.4, ema_decay=0.6, control='permanent')


def flat(tensors):
  return np.concatenate([np.ravel(t) for t in tensors])


def unflat(vector):
  return [vector[:18].reshape(6, 3), vector[18:]]


def test_rounds_by_the_definition(rng):
  model = linear.build_model(rng)
  clients = {c: linear.examples(rng, n) for c, n in zip('abc', (8, 11, 16), strict=True)}
  process = learning.build_partial_sync_fed_avg(model, sgd(RATE), freezing_settings=SETTINGS)
  state = process.initialize()
  memory = {c: process.initialize_client() for c in clients}
  own, left = {}, np.full(SIZE, 99)  # The clients' models; the version in which each left.
  seen = {}
  for round_num in range(16):
    cohort = 'ac' if round_num % 4 == 2 else 'abc'
    noisy = {
      c: (x + rng.normal(size=x.shape).astype(np.float32), y) for c, (x, y) in clients.items()
    }
    frozen = flat(freezing.frozen_mask(SETTINGS, state.finalizer['freezing']))
    left = np.where(frozen & (left == 99), round_num, left)
    before = flat(process.get_model_weights(state).trainable)
    # What a client would use: its own values of what left before it was last here.
    starts = {}
    for c in cohort:
      keeps = frozen & (left <= seen.get(c, -1))
      starts[c] = np.where(keeps, own.get(c, before), before)
      used = process.get_client_model_weights(state, memory[c])
      np.testing.assert_allclose(flat(used.trainable), starts[c], atol=1e-4)
    output = process.next(
      state, [memory[c] for c in cohort], [linear.dataset(*noisy[c], BATCH) for c in cohort]
    )
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    total = sum(len(noisy[c][0]) for c in cohort)
    mean = np.zeros(SIZE)
    for c in cohort:
      trained = flat(linear.train(unflat(starts[c]), *noisy[c], BATCH, RATE))
      mean += len(noisy[c][0]) / total * (starts[c] - trained)
      own[c], seen[c] = trained, round_num
      np.testing.assert_allclose(flat(memory[c]['work']['own']), trained, atol=1e-4)
    after = flat(process.get_model_weights(state).trainable)
    # The server's values of what left are untouched.
    np.testing.assert_array_equal(after[frozen], before[frozen])
    np.testing.assert_allclose(after, np.where(frozen, before, before - mean), atol=1e-4)
    for report in output.reports:
      assert report['uplink']['payload'] == 32 * int((~frozen).sum())
  # The copies drifted apart.
  assert frozen.any()
  assert (np.abs(own['a'] - own['c'])[frozen] > 1e-3).all()


def test_client_that_is_left_out_keeps_finite_values(rng):
  model = linear.build_model(rng)
  process = learning.build_partial_sync_fed_avg(
    model, sgd(RATE), freezing_settings=freezing.Settings(2.0, control='permanent')
  )
  x, y = linear.examples(rng, 8)
  good, bad = linear.dataset(x, y, 2), linear.dataset(np.full_like(x, np.nan), y, 2)
  first = process.next(process.initialize(), [process.initialize_client()] * 2, [good, good])
  second = process.next(first.state, first.client_states, [good, bad])
  third = process.next(second.state, second.client_states, [good, bad])
  kept = [flat(o.client_states[1]['work']['own']) for o in (second, third)]
  weights = flat(process.get_model_weights(first.state).trainable)
  np.testing.assert_array_equal(kept[0], weights)
  np.testing.assert_array_equal(kept[1], weights)
  moved = [flat(o.client_states[0]['work']['own']) for o in (second, third)]
  assert (moved[0] != moved[1]).all()


@pytest.mark.parametrize('keeps_own', [True, False])
def test_memory_holds_no_more_than_it_must(rng, keeps_own):
  build = learning.build_partial_sync_fed_avg if keeps_own else learning.build_apf_fed_avg
  memory = build(linear.build_model(rng), sgd(RATE)).initialize_client()['work']
  assert list(memory) == (['version', 'own'] if keeps_own else ['version'])
  assert memory['version'] == -1


def test_only_clients_that_keep_values_are_told_what_changed(rng):
  model = linear.build_model(rng)
  weights_type = learning.build_fed_avg(model, sgd(RATE)).get_model_weights.type_signature.result
  finalizer = partly_frozen.build_finalizer(sgd(1.0), weights_type, SETTINGS)
  state_type = finalizer.initialize.type_signature.result.member
  for keeps_own, num_tensors in ((True, 2), (False, 0)):
    outgoing = partly_frozen.build_outgoing(state_type, weights_type, SETTINGS, keeps_own)
    assert len(outgoing.type_signature.result.changed) == num_tensors
