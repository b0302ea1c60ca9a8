import numpy as np
import pytest

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank import testing


def run(codec, updates):
  """(decoded, memories) of a client's messages in a row."""
  memory = codec.initial_memory(structures.specs(updates[0]))
  decoded, memories = [], []
  for update in updates:
    encoded = codec.encode(memory, update, codec_cases.SEED)
    decoded.append(np.asarray(codec.decode(memory, encoded.message)[0]))
    memory = encoded.memory
    memories.append(memory)
  return decoded, memories


def test_by_hand():
  # Top-1 of [3, -2]: sends 3, keeps -2; of [1, -2] + [0, -2]: sends -4, keeps 1; and so on.
  updates = [[np.float32([3, -2])], [np.float32([1, -2])], [np.float32([1, 1])]]
  decoded, memories = run(codecs.ErrorFeedback(codecs.TopK(1)), updates)
  assert [d.tolist() for d in decoded] == [[3, 0], [0, -4], [2, 0]]
  assert [m['residual'][0].numpy().tolist() for m in memories] == [[0, -2], [1, 0], [0, 1]]


def updates_that_repeat(rng, rounds):
  base = rng.normal(size=60)
  return [[(base + 0.3 * rng.normal(size=60)).astype(np.float32)] for _ in range(rounds)]


def test_scope_follows_the_order_of_nesting(rng):
  updates = updates_that_repeat(rng, 40)
  total = np.sum([u[0] for u in updates], 0, dtype=np.float64)
  compressor = codecs.LookBack(codecs.ErrorFeedback(codecs.TopK(0.5)), 0.7)
  everything = codecs.ErrorFeedback(codecs.LookBack(codecs.TopK(0.1), 0.5))
  decoded, memories = run(everything, updates)
  left = total - np.sum(decoded, 0, dtype=np.float64)
  np.testing.assert_allclose(left, memories[-1]['residual'][0], atol=1e-4)
  # Within look-back the residual is what top-K left out of what it was given.
  memory = compressor.initial_memory(structures.specs(updates[0]))
  residual, recycled = np.zeros(60, np.float32), 0
  for update in updates:
    encoded = compressor.encode(memory, update, codec_cases.SEED)
    u = update[0] + residual
    order = np.argsort(-np.abs(u), kind='stable')[:30]
    residual = u.copy()
    residual[order] = 0
    np.testing.assert_allclose(encoded.memory[0]['inner']['residual'][0], residual, atol=1e-5)
    recycled += not encoded.message[0]['full']
    memory = encoded.memory
  assert recycled > 0


def test_a_full_send_has_at_most_k_numbers(rng):
  # LBGM's published code adds the residual of the same round back, and so sends all of them.
  for text in (
    'look_back(error_feedback(top_k(0.1)),0.2)',
    'error_feedback(look_back(top_k(0.1)))',
  ):
    decoded, _ = run(codecs.parse(text), updates_that_repeat(rng, 10))
    assert max(np.count_nonzero(d) for d in decoded) <= 6


@pytest.mark.parametrize('inner', ['top_k(0.05)', 'sign_sgd(True)', 'truncated_svd(1)', 'drive',
                                   'look_back(top_k(0.1), 0.3)'])  # fmt: skip
def test_nothing_is_lost_over_many_rounds(rng, inner):
  updates = [[rng.normal(size=(8, 9)).astype(np.float32), rng.normal(size=3).astype(np.float32)]
             for _ in range(100)]  # fmt: skip
  testing.check_conservation(codecs.ErrorFeedback(codecs.parse(inner)), updates)


@pytest.mark.parametrize('inner', [
  codecs.SignSGD(), codecs.RandomK(), codecs.QSGD(), codecs.TernGrad(), codecs.Atomo(),
  codecs.Gaia(), codecs.DRIVE(unbiased=True), codecs.TopK(0.1, codecs.QSGD()),
  codecs.LookBack(codecs.SignSGD()), codecs.ErrorFeedback(codecs.TopK()),
])  # fmt: skip
def test_refuses_codecs_whose_errors_can_grow(inner):
  with pytest.raises(ValueError, match=f'error_feedback cannot be around {inner.name}'):
    codecs.ErrorFeedback(inner)
