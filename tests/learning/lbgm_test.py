"""Rounds of LBGM against NumPy written from the paper's equations."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank import ledger
from tff_lowrank import structures

sgd = tff.learning.optimizers.build_sgdm

CLIENT_RATE, MOMENTUM, BATCH = 0.2, 0.9, 4


class NumpyLbgm:
  """LBGM in float64 with a heavy-ball server, by the definitions."""

  def __init__(self, weights, threshold, granularity, vectors=1):
    self.weights = [np.float64(w) for w in weights]
    self.velocity = [np.zeros_like(w) for w in self.weights]
    self.look_back = {}
    self.threshold, self.granularity, self.vectors = threshold, granularity, vectors
    self.scalars = 0

  def _reconstruct(self, client, update):
    whole = self.granularity == 'model'
    blocks = [np.concatenate([u.ravel() for u in update])] if whole else [u.ravel() for u in update]
    sent = []
    for j, x in enumerate(blocks):
      kept = self.look_back.setdefault((client, j), [])
      if kept:
        basis = np.stack(kept, 1)
        spanned = basis @ np.linalg.lstsq(basis, x, rcond=1e-6)[0]
        if np.sum((x - spanned) ** 2) / np.sum(x**2) <= self.threshold and len(kept) <= x.size:
          sent.append(spanned)
          self.scalars += len(kept)
          continue
      self.look_back[client, j] = [*kept, x][-self.vectors :]
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


@pytest.mark.parametrize('granularity, vectors', [('tensor', 1), ('model', 1), ('tensor', 3)])
def test_rounds_equal_numpy_under_sampling(rng, granularity, vectors):
  model = linear.build_model(rng)
  data = {c: linear.examples(rng, n) for c, n in zip('abcd', (8, 11, 16, 5), strict=True)}
  process = learning.build_lbgm_fed_avg(
    model,
    sgd(CLIENT_RATE),
    sgd(1.0, momentum=MOMENTUM),
    threshold=0.3,
    granularity=granularity,
    vectors=vectors,
  )
  reference = NumpyLbgm(model.initial_weights[0], 0.3, granularity, vectors)
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
  assert 0 < sent_scalars < 8 * 3 * vectors * len(memory['a'])


class PlainLookBack(codecs.Codec):
  """LBGM of the paper for each tensor and nothing else, to compare with to the bit."""

  name = 'plain_look_back'
  traits = codecs.Traits(has_memory=True, variable_size=True, individual=True)

  def initial_memory(self, value_spec):
    return [(tf.constant(False), structures.zeros(spec)) for spec in tf.nest.flatten(value_spec)]

  def encode(self, memory, value, seed, reference=None):
    messages, new_memory = [], []
    for (has, l), x in zip(memory, tf.nest.flatten(value), strict=True):
      rho = tf.math.divide_no_nan(structures.dot([x], [l]), structures.dot([l], [l]))
      rho = tf.cast(rho, tf.float32)
      rest = x - rho * l
      error = structures.dot([rest], [rest]) / structures.dot([x], [x])
      full = ~(has & (error <= 0.3))
      messages.append((full, rho, x))
      new_memory.append((has | full, structures.select(full, x, l)))
    return codecs.Encoded(messages, new_memory)

  def decode(self, memory, message):
    pairs = zip(memory, message, strict=True)
    return [structures.select(full, x, rho * l) for (_, l), (full, rho, x) in pairs]

  def message_price(self, message):
    bits = [tf.where(full, 32 * x.shape.num_elements(), 32) for full, _, x in message]
    return ledger.price(payload=sum(bits), flag=len(message))

  def official_units(self, message):
    return tf.constant(0, tf.int64)

  def write(self, writer, message):
    raise NotImplementedError

  def read(self, reader, value_spec, memory=None):
    raise NotImplementedError


def test_one_vector_is_the_paper_s_to_the_bit(rng):
  model = linear.build_model(rng)
  data = [linear.dataset(*linear.examples(rng, n), BATCH) for n in (8, 11, 16)]
  settings = (model, sgd(CLIENT_RATE), sgd(1.0, momentum=MOMENTUM))
  results = []
  for process in (
    learning.build_lbgm_fed_avg(*settings, threshold=0.3, vectors=1),
    learning.build_compressed_fed_avg(*settings, codec=PlainLookBack()),
  ):
    state, memory = process.initialize(), [process.initialize_client()] * 3
    found, bits = [], []
    for _ in range(8):
      output = process.next(state, memory, data)
      state, memory = output.state, output.client_states
      found += [np.asarray(w) for w in process.get_model_weights(state).trainable]
      bits += [sum(report['uplink'].values()) for report in output.reports]
    results.append((found, bits))
  assert results[0][1] == results[1][1]
  assert len(set(results[0][1])) > 2
  for a, b in zip(results[0][0], results[1][0], strict=True):
    np.testing.assert_array_equal(a, b)


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
