"""Look-back at the last global updates against NumPy written from its description."""

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import learning

sgd = tff.learning.optimizers.build_sgdm

RATE, MOMENTUM, BATCH = 0.2, 0.9, 4
NUMBERS = (linear.FEATURES + 1) * linear.CLASSES


class NumpyGlobalLookBack:
  """Whole rounds in float64; blocks are tensors. A client holds the models that it was sent."""

  def __init__(self, weights, threshold, vectors, predictive):
    self.models = [[np.float64(w) for w in weights]]
    self.velocity = [np.zeros_like(w) for w in self.models[0]]
    self.threshold, self.vectors, self.predictive = threshold, vectors, predictive
    self.held = {}

  def _send(self, block, updates):
    """(what the server decodes, bits) of one block."""
    x = block.ravel()
    full = 32 * x.size
    if not updates:
      return block, 1 + full
    basis = np.stack([u.ravel() for u in updates], 1)
    rho = np.linalg.lstsq(basis, x, rcond=1e-6)[0]
    rho = rho.astype(np.float32).astype(np.float64)
    spanned = (basis @ rho).reshape(block.shape)
    bits = 32 * len(rho)
    error = np.sum((block - spanned) ** 2) / np.sum(x**2)
    if error <= self.threshold and (self.predictive or bits <= full):
      return spanned, 1 + bits
    return block, 1 + full + (bits if self.predictive else 0)

  def round(self, cohort):
    """Takes a round; returns each client's (bits up, bits down)."""
    t, prices = len(self.models) - 1, []
    total = sum(len(x) for x, _ in cohort.values())
    mean = [np.zeros_like(w) for w in self.models[-1]]
    for client, (x, y) in cohort.items():
      wanted = set(range(max(0, t - self.vectors), t + 1))
      held = self.held.get(client, set())
      down = 32 * NUMBERS * len(wanted - held)
      self.held[client] = held | wanted
      trained = linear.train(self.models[-1], x, y, BATCH, RATE)
      up = 0
      for j, (m, before, after) in enumerate(zip(mean, self.models[-1], trained, strict=True)):
        updates = [self.models[s][j] - self.models[s + 1][j] for s in sorted(wanted - {t})]
        decoded, bits = self._send(before - after, updates)
        m += len(x) / total * decoded
        up += bits
      prices.append((up, down))
    self.velocity = [MOMENTUM * v + m for v, m in zip(self.velocity, mean, strict=True)]
    self.models.append([w - v for w, v in zip(self.models[-1], self.velocity, strict=True)])
    return prices


def run(process, data, cohorts):
  state = process.initialize()
  memory = {c: process.initialize_client() for c in data}
  for cohort in cohorts:
    output = process.next(
      state, [memory[c] for c in cohort], [linear.dataset(*data[c], BATCH) for c in cohort]
    )
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    yield process.get_model_weights(state).trainable, output


@pytest.mark.parametrize('predictive', [False, True])
@pytest.mark.parametrize('vectors', [1, 3])
def test_rounds_equal_numpy_under_sampling(rng, vectors, predictive):
  model = linear.build_model(rng)
  data = {c: linear.examples(rng, n) for c, n in zip('abcd', (8, 11, 16, 5), strict=True)}
  # c is away for long, and d comes late.
  cohorts = ['abc', 'ab', 'ab', 'ab', 'bc', 'ad', 'ab', 'cd', 'ad', 'bc']
  reference = NumpyGlobalLookBack(model.initial_weights[0], 0.4, vectors, predictive)
  process = learning.build_global_lbgm_fed_avg(
    model,
    sgd(RATE),
    sgd(1.0, momentum=MOMENTUM),
    threshold=0.4,
    vectors=vectors,
    predictive=predictive,
  )
  scalars = 0
  for cohort, (weights, output) in zip(cohorts, run(process, data, cohorts), strict=True):
    expected = reference.round({c: data[c] for c in cohort})
    for got, wanted in zip(weights, reference.models[-1], strict=True):
      np.testing.assert_allclose(got, wanted, atol=2e-6)
    found = [
      tuple(sum(int(bits) for bits in report[way].values()) for way in ('uplink', 'downlink'))
      for report in output.reports
    ]
    assert found == expected
    scalars += sum(int(report['uplink']['scalar']) for report in output.reports)
  assert scalars > 0


def test_the_way_down_costs_a_model_to_those_who_were_there(rng):
  data = {c: linear.examples(rng, 8) for c in 'ab'}
  process = learning.build_global_lbgm_fed_avg(linear.build_model(rng), sgd(RATE), vectors=2)
  found = [
    [int(report['downlink']['catch_up']) // (32 * NUMBERS) for report in output.reports]
    for _, output in run(process, data, ['a', 'a', 'a', 'ab', 'a', 'ab', 'ab', 'a', 'a', 'a', 'ab'])
  ]
  # b lacks two models at first, then the one of the round that it missed, then as many as count.
  assert found == [[0], [0], [0], [0, 2], [0], [0, 1], [0, 0], [0], [0], [0], [0, 2]]


@pytest.mark.parametrize('granularity', ['tensor', 'model'])
def test_threshold_zero_is_fed_avg_to_the_bit(rng, granularity):
  model = linear.build_model(rng)
  data = {c: linear.examples(rng, n) for c, n in zip('ab', (8, 12), strict=True)}
  settings = (model, sgd(RATE), sgd(1.0, momentum=MOMENTUM))
  mine = learning.build_global_lbgm_fed_avg(
    *settings, threshold=0.0, granularity=granularity, vectors=2
  )
  theirs = learning.build_fed_avg(*settings)
  cohorts = ['ab'] * 4
  for (a, _), (b, _) in zip(run(mine, data, cohorts), run(theirs, data, cohorts), strict=True):
    for got, wanted in zip(a, b, strict=True):
      np.testing.assert_array_equal(got, wanted)


def test_goes_with_codecs_that_remember(rng):
  process = learning.build_global_lbgm_fed_avg(
    linear.build_model(rng),
    sgd(RATE),
    threshold=0.2,
    vectors=2,
    predictive=True,
    inner='error_feedback(top_k(0.2))',
  )
  data = {c: linear.examples(rng, 8) for c in 'ab'}
  *_, (_, output) = run(process, data, ['ab'] * 4)
  remembered = process.initialize_client.type_signature.result
  # Of a client: the residuals of error feedback, and the round it was there.
  floats = [t for t in tff.structure.flatten(remembered) if t.dtype == np.float32]
  assert sorted(t.shape for t in floats) == [(3,), (6, 3)]
  assert int(output.client_states[0]['work']) == 3
  assert all(int(report['uplink']['scalar']) > 0 for report in output.reports)


def test_refuses_bad_arguments(rng):
  model = linear.build_model(rng)
  with pytest.raises(ValueError, match='`vectors`'):
    learning.build_global_lbgm_fed_avg(model, sgd(0.1), vectors=0)
  with pytest.raises(ValueError, match='gaia needs the weights|needs the weights of the model'):
    learning.build_global_lbgm_fed_avg(
      model, sgd(0.1), inner=codecs.Gaia(accumulate=False, threshold=0.1)
    )
