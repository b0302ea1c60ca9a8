"""EF21 against NumPy written from the paper's algorithm 2."""

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.codecs import codec_cases
from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank import structures

sgd = tff.learning.optimizers.build_sgdm


def top(x, k):
  flat = np.ravel(x)
  kept = np.zeros_like(flat)
  order = np.argsort(-np.abs(flat), kind='stable')[:k]
  kept[order] = flat[order]
  return kept.reshape(x.shape)


def test_sends_what_is_new_and_keeps_the_sum(rng):
  codec = codecs.EF21(codecs.TopK(3))
  updates = [np.float32(rng.normal(size=20)) for _ in range(6)]
  memory = codec.initial_memory([structures.specs(updates[0])])
  g = np.zeros(20)
  for x in updates:
    encoded = codec.encode(memory, [x], codec_cases.SEED)
    g = g + top(x - g, 3)
    np.testing.assert_allclose(codec.decode(memory, encoded.message)[0], g, atol=1e-6)
    np.testing.assert_allclose(encoded.memory['estimate'][0], g, atol=1e-6)
    assert codec.message_price(encoded.message)['payload'] == 3 * 32
    memory = encoded.memory


def test_an_update_that_stays_is_reached_linearly(rng):
  # Theorem: |x - g|^2 shrinks by 1 - k / n or more with each message.
  codec = codecs.EF21(codecs.TopK(4))
  x = np.float32(rng.normal(size=20))
  memory = codec.initial_memory([structures.specs(x)])
  left = np.sum(x**2)
  for _ in range(5):
    memory = codec.encode(memory, [x], codec_cases.SEED).memory
    now = np.sum((x - memory['estimate'][0]) ** 2)
    assert now <= (1 - 4 / 20) * left + 1e-12
    left = now
  assert left < 1e-10


def test_rounds_equal_numpy_with_all_clients_and_some(rng):
  model = linear.build_model(rng)
  data = {c: linear.examples(rng, 8) for c in 'abc'}
  process = learning.build_compressed_fed_avg(model, sgd(0.2), codec='ef21(top_k(2))')
  state, memory = process.initialize(), {c: process.initialize_client() for c in data}
  weights = [np.float64(w) for w in model.initial_weights[0]]
  estimate = {c: [np.zeros_like(w) for w in weights] for c in data}
  for cohort in ('abc', 'abc', 'abc', 'ac', 'b', 'abc'):
    output = process.next(
      state, [memory[c] for c in cohort], [linear.dataset(*data[c], 4) for c in cohort]
    )
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    for c in cohort:
      trained = linear.train(weights, *data[c], 4, 0.2)
      estimate[c] = [
        g + top(before - after - g, 2)
        for g, before, after in zip(estimate[c], weights, trained, strict=True)
      ]
    means = [np.mean([estimate[c][j] for c in cohort], 0) for j in range(2)]
    weights = [w - m for w, m in zip(weights, means, strict=True)]
    for got, wanted in zip(process.get_model_weights(state).trainable, weights, strict=True):
      np.testing.assert_allclose(got, wanted, atol=1e-6)


@pytest.mark.parametrize('inner', [
  codecs.QSGD(), codecs.SignSGD(), codecs.RandomK(), codecs.EF21(), codecs.LookBack(codecs.TopK()),
  codecs.ErrorFeedback(codecs.TopK()), codecs.Gaia(accumulate=False), codecs.CMFL(),
])  # fmt: skip
def test_refuses_what_is_no_contraction_or_filters_updates(inner):
  with pytest.raises(ValueError, match=f'ef21 cannot be around {inner.name}'):
    codecs.EF21(inner)


def test_cannot_be_recycled_or_corrected():
  for outer in (codecs.LookBack, codecs.ErrorFeedback):
    with pytest.raises(ValueError, match='cannot be around ef21'):
      outer(codecs.EF21())
