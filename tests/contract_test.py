"""Every codec against every law that its traits claim."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank import testing
from tff_lowrank.codecs import grammar

STACKS = (
  'identity',
  'top_k(0.1)',
  'top_k(3)',
  'top_k(1.0)',
  'top_k(0.2, granularity=model)',
  'top_k(0.3, qsgd(7))',
  'top_k(0.3, qsgd(7, stochastic=False))',
  'top_k(0.3, sign_sgd(True))',
  'top_k(0.5, random_k(0.5))',
  'random_k(0.3)',
  'random_k(0.3, rescale=False)',
  'random_k(0.5, terngrad)',
  'random_k(2, granularity=model)',
  'sign_sgd',
  'sign_sgd(scaled=True)',
  'qsgd(1)',
  'qsgd(127)',
  'qsgd(4, max)',
  'qsgd(3, stochastic=False)',
  'float16',
  'terngrad',
  'terngrad(2.5)',
  'atomo(2)',
  'truncated_svd(1)',
  'power_sgd(1)',
  'drive',
  'drive(unbiased=True)',
  'gaia(0.5)',
  'gaia(0.5, accumulate=False)',
  'gaia(0, decay=100, accumulate=False)',
  'cmfl(0.4)',
  'cmfl(0.9, look_back(top_k(0.3)), zero)',
  'error_feedback(top_k(0.1))',
  'error_feedback(power_sgd(1))',
  'error_feedback(sign_sgd(True))',
  'error_feedback(look_back(top_k(0.1), 0.2))',
  'error_feedback(sparse_ternary(0.1))',
  'sparse_ternary(0.1)',
  'sparse_ternary(3, model)',
  'sparse_ternary(1.0)',
  'ef21',
  'ef21(sign_sgd(True))',
  'ef21(look_back(threshold=0.3))',
  'look_back(sparse_ternary(0.2), 0.3)',
  'look_back(threshold=0.2)',
  'look_back(granularity=model)',
  'look_back(error_feedback(top_k(0.1)), 0.2)',
  'look_back(sign_sgd, 0.4)',
  'look_back(atomo(1), 0.3)',
  'look_back(gaia(0.1), 0.3)',
  'look_back(power_sgd(1), 1.0)',
  'look_back(float16)',
  'look_back(threshold=0.3, vectors=3)',
  'look_back(top_k(0.3), 0.3, model, vectors=4)',
  'look_back(error_feedback(top_k(0.1)), 0.2, vectors=2)',
  'look_back(top_k(0.1), 0.3, vectors=2, predictive=True)',
  'look_back(sign_sgd(True), 0, model, predictive=True)',
  'error_feedback(look_back(top_k(0.1), 0.2, vectors=2, predictive=True))',
  'cmfl(0.4, look_back(vectors=2))',
)
# Every codec, and every kind of nesting.
QUICK = (
  'identity',
  'top_k(0.1)',
  'top_k(0.3, qsgd(7))',
  'random_k(2, granularity=model)',
  'sign_sgd(scaled=True)',
  'qsgd(4, max)',
  'float16',
  'terngrad',
  'atomo(2)',
  'truncated_svd(1)',
  'drive',
  'gaia(0.5)',
  'cmfl(0.9, look_back(top_k(0.3)), zero)',
  'error_feedback(power_sgd(1))',
  'error_feedback(look_back(top_k(0.1), 0.2))',
  'look_back(error_feedback(top_k(0.1)), 0.2)',
  'look_back(granularity=model)',
  'look_back(top_k(0.3), 0.3, model, vectors=4)',
  'ef21',
  'sparse_ternary(0.1)',
)
# Long, and each kind of codec and of nesting in them is in another one.
LONG = (
  'random_k(0.3)',
  'cmfl(0.4, look_back(vectors=2))',
  'error_feedback(look_back(top_k(0.1), 0.2, vectors=2, predictive=True))',
  'error_feedback(sparse_ternary(0.1))',
  'look_back(atomo(1), 0.3)',
  'look_back(error_feedback(top_k(0.1)), 0.2, vectors=2)',
  'look_back(float16)',
  'look_back(gaia(0.1), 0.3)',
  'look_back(sign_sgd, 0.4)',
  'look_back(sparse_ternary(0.2), 0.3)',
  'look_back(threshold=0.3, vectors=3)',
)
# For tests beside `test_contract`.
SOME_QUICK = [
  pytest.param(text, marks=[] if text in QUICK else pytest.mark.slow) for text in STACKS
]


@pytest.mark.parametrize(
  'text', [pytest.param(text, marks=[pytest.mark.slow] * (text in LONG)) for text in STACKS]
)
def test_contract(text):
  codec = codecs.parse(text)
  assert codecs.parse(str(codec)) == codec
  testing.check_contract(codec, testing.edge_values())


@pytest.mark.each_once
@pytest.mark.parametrize('dtype', [tf.float16, tf.bfloat16, tf.float64], ids=lambda t: t.name)
@pytest.mark.parametrize('text', SOME_QUICK)
def test_contract_of_other_floats(text, dtype):
  testing.check_contract(codecs.parse(text), testing.edge_values(dtype))


@pytest.mark.parametrize('text', SOME_QUICK)
def test_contract_of_mixed_floats(text, rng):
  dtypes = (np.float16, np.float32, np.float64, tf.bfloat16.as_numpy_dtype)
  value = [rng.normal(size=(6, 5)).astype(dtype) for dtype in dtypes]
  codec = codecs.parse(text)
  for law in (testing.check_round_trip, testing.check_size, testing.check_memory_symmetry):
    law(codec, [value, [x / 2 for x in value]])


def test_every_codec_is_here():
  assert all(any(name in text for text in QUICK) for name in grammar.CODECS)
  assert set(QUICK) < set(STACKS) - set(LONG)
  assert set(LONG) < set(STACKS)


@pytest.mark.parametrize('text', SOME_QUICK)
def test_compiles_with_xla(text, rng):
  codec = codecs.parse(text)
  value = [tf.constant(rng.normal(size=s), tf.float32) for s in ((6, 5), (5,), ())]
  reference = testing.reference_for(codec, value)
  memory = codec.initial_memory(structures.specs(value))

  def step(memory, value, seed):
    encoded = codec.encode(memory, value, seed, reference)
    return (
      encoded.memory,
      codec.decode(memory, encoded.message),
      codec.message_bits(encoded.message),
    )

  seed = tf.constant([3, 4])
  compiled = tf.function(step, jit_compile=True)(memory, value, seed)
  shapes = [x.shape for x in compiled[1]]
  assert shapes == [x.shape for x in value]
  if not draws(codec):  # XLA's random numbers are others than TensorFlow's.
    plain = step(memory, value, seed)
    for a, b in zip(tf.nest.flatten(compiled), tf.nest.flatten(plain), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def draws(codec):
  random = (codecs.RandomK, codecs.TernGrad, codecs.Atomo, codecs.DRIVE)
  return any(
    isinstance(part, random) or (isinstance(part, codecs.QSGD) and part.stochastic)
    for part in codec.parts
  )
