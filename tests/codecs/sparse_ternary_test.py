"""Sparse ternary compression against NumPy written from the paper's algorithms 1 to 3."""

import math

import numpy as np
import pytest
import tensorflow_federated as tff

from tests.codecs import codec_cases
from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import learning
from tff_lowrank import structures
from tff_lowrank.codecs import sparse_ternary

sgd = tff.learning.optimizers.build_sgdm


def stc(tensor, p):
  """Algorithm 1."""
  flat = np.float64(np.ravel(tensor))
  k = max(int(flat.size * p + 1e-9), 1)
  v = np.sort(np.abs(flat))[-k]
  masked = (np.abs(flat) >= v) * flat
  mu = np.sum(np.abs(masked)) / k
  return (mu * np.sign(masked)).reshape(np.shape(tensor))


def golomb(flat, p):
  """Algorithm 3: the bits of the positions of what is not 0, as text."""
  phi = (math.sqrt(5) + 1) / 2
  b = 1 + math.floor(math.log2(math.log(phi - 1) / math.log(1 - p)))
  bits, last = '', -1
  for position in np.flatnonzero(flat):
    q, r = divmod(int(position) - last - 1, 2**b)
    bits += '1' * q + '0' + format(r, f'0{b}b')
    last = position
  return bits


def encode(codec, value):
  return codec.encode((), value, codec_cases.SEED).message


@pytest.mark.parametrize('p', [0.01, 0.04, 0.25])
def test_agrees_with_the_paper_s_algorithms(rng, p):
  codec = codecs.SparseTernary(p)
  value = [rng.normal(size=(40, 30)).astype(np.float32), rng.normal(size=50).astype(np.float32)]
  message = encode(codec, value)
  bits = 0
  for x, got in zip(value, codec.decode((), message), strict=True):
    expected = stc(x, p)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    k = max(int(p * x.size), 1)
    # How many; their places; their signs; the magnitude.
    bits += k.bit_length() + len(golomb(expected.ravel(), k / x.size)) + k + 32
  assert int(codec.message_bits(message)) == bits
  assert len(codec.pack(message)) == -(-bits // 8)
  assert int(codec.official_units(message)) == bits


def test_whole_model_as_the_paper_has_it(rng):
  value = [np.float32(rng.normal(size=(6, 5))), np.float32(10 * rng.normal(size=20))]
  codec = codecs.SparseTernary(0.1, 'model')
  got = np.concatenate([np.ravel(x) for x in codec.decode((), encode(codec, value))])
  np.testing.assert_allclose(got, stc(np.concatenate([x.ravel() for x in value]), 0.1), rtol=1e-6)


@pytest.mark.parametrize('p', [0.2, 0.05, 0.01, 1 / 400])
def test_bits_a_position_are_the_paper_s(rng, p):
  # The mean over random positions: b + 1 / (1 - (1 - p)^(2^b)).
  n = 200_000
  b = int(sparse_ternary.golomb_parameter(int(p * n), n))
  codec = codecs.SparseTernary(p)
  message = encode(codec, [np.float32(rng.normal(size=n))])
  count = int(p * n)
  found = (int(codec.message_price(message)['index_or_mask']) - count.bit_length()) / count
  assert abs(found / (b + 1 / (1 - (1 - p) ** 2**b)) - 1) < 0.01
  # No other parameter would do better.
  costs = [c + 1 / (1 - (1 - p) ** 2**c) for c in range(20)]
  assert b == np.argmin(costs)


@pytest.mark.parametrize('amount, expected', [(1.0, 0), (0.99, 0), (0.5, 0), (0.38, 1), (1, 5)])
def test_parameter_of_dense_and_single_ones(amount, expected):
  count = amount if isinstance(amount, int) else round(100 * amount)
  assert int(sparse_ternary.golomb_parameter(count, 50 if count == 1 else 100)) == expected


def test_what_is_0_is_not_sent():
  codec = codecs.SparseTernary(4)
  message = encode(codec, [np.float32([0, -3, 0, 0, 0, 1, 0, 0])])
  np.testing.assert_array_equal(codec.decode((), message)[0], [0, -2, 0, 0, 0, 2, 0, 0])
  assert codec.message_price(message)['payload'] == 2
  # 4 has three bits; p is a half, so that gaps are in unary: 1 and 3 ones, each with its zero.
  assert codec.message_price(message)['index_or_mask'] == 3 + 2 + 4


def test_rounds_equal_algorithm_2(rng):
  """Both ways, with the residuals of the clients and of the server."""
  model = linear.build_model(rng)
  clients = [linear.examples(rng, 8) for _ in range(3)]
  data = [linear.dataset(x, y, 4) for x, y in clients]
  p = 0.2
  process = learning.build_compressed_fed_avg(
    model,
    sgd(0.2),
    codec=f'error_feedback(sparse_ternary({p}))',
    downlink=f'sparse_ternary({p})',
  )
  state, memory = process.initialize(), [process.initialize_client()] * 3
  weights = [np.float64(w) for w in model.initial_weights[0]]
  own = [[np.zeros_like(w) for w in weights] for _ in clients]
  servers = [np.zeros_like(w) for w in weights]
  for _ in range(6):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    # What clients are sent now is what the server made of the last round.
    for got, expected in zip(state.distributor['version'], weights, strict=True):
      np.testing.assert_allclose(got, expected, atol=2e-6)
    sent = []
    for i, (x, y) in enumerate(clients):
      trained = linear.train(weights, x, y, 4, 0.2)
      total = [a - w + r for a, w, r in zip(trained, weights, own[i], strict=True)]
      sent.append([stc(t, p) for t in total])
      own[i] = [t - s for t, s in zip(total, sent[-1], strict=True)]
    total = [np.mean(parts, 0) + r for *parts, r in zip(*sent, servers, strict=True)]
    down = [stc(t, p) for t in total]
    servers = [t - d for t, d in zip(total, down, strict=True)]
    weights = [w + d for w, d in zip(weights, down, strict=True)]


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='share must be in'):
    codecs.SparseTernary(0.0)
  with pytest.raises(ValueError, match='`granularity`'):
    codecs.SparseTernary(granularity='layer')
  assert structures.num_elements(encode(codecs.SparseTernary(), [np.zeros(0, 'f')]).signs) == 0
