"""Rounds of LBGM against NumPy written from the paper's equations."""

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import learning

sgd = tff.learning.optimizers.build_sgdm

CLIENT_RATE, MOMENTUM, BATCH = 0.2, 0.9, 4


class NumpyLbgm:
  """LBGM in float64 with a heavy-ball server, by the definitions."""

  def __init__(self, weights, threshold, granularity):
    self.weights = [np.float64(w) for w in weights]
    self.velocity = [np.zeros_like(w) for w in self.weights]
    self.look_back = {}
    self.threshold, self.granularity = threshold, granularity
    self.scalars = 0

  def _reconstruct(self, client, update):
    whole = self.granularity == 'model'
    blocks = [np.concatenate([u.ravel() for u in update])] if whole else [u.ravel() for u in update]
    sent = []
    for j, x in enumerate(blocks):
      l = self.look_back.get((client, j))
      if l is not None:
        rho = (x @ l) / (l @ l)
        if np.sum((x - rho * l) ** 2) / np.sum(x**2) <= self.threshold:
          sent.append(rho * l)
          self.scalars += 1
          continue
      self.look_back[client, j] = x
      sent.append(x)
    flat = np.concatenate(sent)
    cuts = np.cumsum([u.size for u in update])[:-1]
    return [part.reshape(u.shape) for part, u in zip(np.split(flat, cuts), update, strict=True)]

  def round(self, cohort):
    total = sum(len(x) for x, _ in cohort.values())
    mean = [np.zeros_like(w) for w in self.weights]
    for client, (x, y) in cohort.items():
      trained = linear.train(self.weights, x, y, BATCH, CLIENT_RATE)
      update = [before - after for before, after in zip(self.weights, trained, strict=True)]
      for m, u in zip(mean, self._reconstruct(client, update), strict=True):
        m += len(x) / total * u
    self.velocity = [MOMENTUM * v + m for v, m in zip(self.velocity, mean, strict=True)]
    self.weights = [w - v for w, v in zip(self.weights, self.velocity, strict=True)]


@pytest.mark.parametrize('granularity', ['tensor', 'model'])
def test_rounds_equal_numpy_under_sampling(rng, granularity):
  model = linear.build_model(rng)
  data = {c: linear.examples(rng, n) for c, n in zip('abcd', (8, 11, 16, 5), strict=True)}
  process = learning.build_lbgm_fed_avg(
    model, sgd(CLIENT_RATE), sgd(1.0, momentum=MOMENTUM), threshold=0.3, granularity=granularity
  )
  reference = NumpyLbgm(model.initial_weights[0], 0.3, granularity)
  state = process.initialize()
  memory = {c: process.initialize_client() for c in data}
  sent_scalars = 0
  for round_num in range(8):
    cohort = sorted(rng.choice(list(data), size=3, replace=False))
    output = process.next(
      state, [memory[c] for c in cohort], [linear.dataset(*data[c], BATCH) for c in cohort]
    )
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    sent_scalars += sum(int(report['uplink']['scalar']) // 32 for report in output.reports)
    reference.round({c: data[c] for c in cohort})
    got = process.get_model_weights(state).trainable
    for weight, wanted in zip(got, reference.weights, strict=True):
      np.testing.assert_allclose(weight, wanted, atol=1e-6, err_msg=f'round {round_num}')
  assert sent_scalars == reference.scalars
  assert 0 < sent_scalars < 8 * 3 * len(memory['a'])


@pytest.mark.each_once
@pytest.mark.parametrize('build', [learning.build_lbgm_fed_avg, learning.build_shared_lbgm_fed_avg])
@pytest.mark.parametrize('granularity', ['tensor', 'model'])
def test_threshold_zero_is_fed_avg_to_the_bit(rng, build, granularity):
  model = linear.build_model(rng)
  clients = [linear.examples(rng, n) for n in (8, 11, 16)]
  data = [linear.dataset(x, y, BATCH) for x, y in clients]
  settings = (model, sgd(CLIENT_RATE), sgd(1.0, momentum=MOMENTUM))
  lbgm = build(*settings, threshold=0.0, granularity=granularity)
  fed_avg = tff.learning.algorithms.build_weighted_fed_avg(*settings)
  a, b = lbgm.initialize(), fed_avg.initialize()
  memory = [lbgm.initialize_client()] * 3
  num_blocks = 2 if granularity == 'tensor' else 1
  for _ in range(4):
    output = lbgm.next(a, memory, data)
    a, memory, b = output.state, output.client_states, fed_avg.next(b, data).state
    expected = fed_avg.get_model_weights(b).trainable
    for got, wanted in zip(lbgm.get_model_weights(a).trainable, expected, strict=True):
      np.testing.assert_array_equal(got, wanted)
    # FedAvg's floats, and the flags.
    for report in output.reports:
      assert sum(report['uplink'].values()) == 21 * 32 + num_blocks


def test_threshold_one_sends_scalars_from_the_second_round_on(rng):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, 8), BATCH)] * 2
  process = learning.build_lbgm_fed_avg(model, sgd(CLIENT_RATE), threshold=1.0)
  state, memory = process.initialize(), [process.initialize_client()] * 2
  fractions = []
  for _ in range(3):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    fractions.append(float(output.metrics['aggregator']['codec']['scalar_fraction']))
  assert fractions == [0, 1, 1]


def test_refuses_bad_arguments(rng):
  model = linear.build_model(rng)
  with pytest.raises(ValueError, match='`threshold`'):
    learning.build_lbgm_fed_avg(model, sgd(0.1), threshold=2.0)
  with pytest.raises(ValueError, match='`granularity`'):
    learning.build_shared_lbgm_fed_avg(model, sgd(0.1), granularity='layer')
