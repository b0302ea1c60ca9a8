"""LBGM's codec against NumPy written from the equations, and its edge cases one by one."""

import collections

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import tensorflow as tf

from tests.codecs import codec_cases
from tff_lowrank import codecs
from tff_lowrank import structures
from tff_lowrank.codecs import codec as codec_lib
from tff_lowrank.codecs import look_back


def remembering(codec, value):
  """The memory of a client that has sent `value` in full."""
  memory = codec.initial_memory(structures.specs(value))
  return codec.encode(memory, value, codec_cases.SEED).memory


def reference(x, l, threshold):
  """One block from the definitions, in float64: (full, rho, error)."""
  x, l = np.float64(x).ravel(), np.float64(l).ravel()
  if not x.any():
    return False, 0.0, 0.0
  if not l.any():
    return True, None, None
  rho = x @ l / (l @ l)
  sin_squared = np.sum((x - rho * l) ** 2) / (x @ x)
  return sin_squared > threshold, rho, sin_squared


def test_agrees_with_the_definitions_on_random_vectors(rng):
  codec = codecs.LookBack(threshold=0.5)
  l = [rng.normal(size=(30, 4)).astype(np.float32), rng.normal(size=(4,)).astype(np.float32)]
  memory = remembering(codec, l)
  decisions = set()
  for noise in np.geomspace(0.01, 3, 30):
    x = [(-1.7 * t + noise * rng.normal(size=t.shape)).astype(np.float32) for t in l]
    encoded = codec.encode(memory, x, codec_cases.SEED)
    decoded = codec.decode(memory, encoded.message)
    for sent, block, anchor, got in zip(encoded.message, x, l, decoded, strict=True):
      full, rho, _ = reference(block, anchor, 0.5)
      assert bool(sent['full']) == full
      decisions.add(full)
      np.testing.assert_allclose(sent['coefficient'], rho, rtol=1e-6)
      np.testing.assert_allclose(got, block if full else rho * anchor, rtol=1e-5, atol=1e-6)
  assert decisions == {True, False}


def test_first_message_is_full_whatever_the_threshold():
  codec = codecs.LookBack(threshold=1.0)
  value = [np.float32([1, 2]), np.float32([0, 0])]
  memory = codec.initial_memory(structures.specs(value))
  encoded = codec.encode(memory, value, codec_cases.SEED)
  assert [bool(sent['full']) for sent in encoded.message] == [True, True]
  assert [bool(kept['has']) for kept in encoded.memory] == [True, True]
  np.testing.assert_array_equal(encoded.memory[0]['look_back'][0], [1, 2])


def test_threshold_zero_sends_everything_in_full_even_what_is_parallel(rng):
  codec = codecs.LookBack(threshold=0.0)
  value = [rng.normal(size=100).astype(np.float32)]
  memory = remembering(codec, value)
  message = codec.encode(memory, value, codec_cases.SEED).message
  assert bool(message[0]['full'])
  np.testing.assert_array_equal(codec.decode(memory, message)[0], value[0])


def test_threshold_one_recycles_everything_but_a_zero_look_back(rng):
  codec = codecs.LookBack(threshold=1.0)
  orthogonal = np.float32([0, 3])
  memory = remembering(codec, [np.float32([1, 0])])
  assert not codec.encode(memory, [orthogonal], codec_cases.SEED).message[0]['full']
  memory = remembering(codec, [np.float32([0, 0])])
  encoded = codec.encode(memory, [orthogonal], codec_cases.SEED)
  assert bool(encoded.message[0]['full'])
  np.testing.assert_array_equal(encoded.memory[0]['look_back'][0], orthogonal)


@pytest.mark.parametrize('factor', [-3.0, 0.5, 1e-8, 1e8])
@pytest.mark.parametrize('size', [10, 431_080])
def test_parallel_vectors_are_recycled_exactly(rng, factor, size):
  codec = codecs.LookBack(threshold=1e-6)
  l = rng.normal(size=size).astype(np.float32)
  memory = remembering(codec, [l])
  x = (np.float32(factor) * l).astype(np.float32)
  message = codec.encode(memory, [x], codec_cases.SEED).message
  assert not message[0]['full']
  np.testing.assert_allclose(message[0]['coefficient'], factor, rtol=1e-6)
  np.testing.assert_allclose(codec.decode(memory, message)[0], x, rtol=1e-6)


@pytest.mark.parametrize('scale', [1e-30, 1e-12, 1e12, 1e30])
def test_decision_does_not_depend_on_scale(rng, scale):
  l = rng.normal(size=50)
  x = l + 0.8 * rng.normal(size=50)
  _, rho, error = reference(x, l, 0)
  for threshold, full in ((error * 0.99, True), (error * 1.01, False)):
    codec = codecs.LookBack(threshold=float(threshold))
    memory = remembering(codec, [np.float32(l)])
    sent = codec.encode(memory, [np.float32(scale * x)], codec_cases.SEED).message[0]
    assert bool(sent['full']) == full
    np.testing.assert_allclose(sent['coefficient'], scale * rho, rtol=1e-5)
  # Turning x around turns the coefficient around, and decides the same.
  sent = codec.encode(memory, [np.float32(-x)], codec_cases.SEED).message[0]
  assert not sent['full']
  np.testing.assert_allclose(sent['coefficient'], -rho, rtol=1e-5)


def test_coefficient_is_the_best_one(rng):
  x, l = rng.normal(size=20), rng.normal(size=20)
  rho, error = look_back.project([x], [l])
  rho = np.float64(rho)
  for other in (0.99 * rho, 1.01 * rho):
    assert np.sum((x - other * l) ** 2) / (x @ x) > error + 1e-9
  np.testing.assert_allclose(error, 1 - (x @ l) ** 2 / ((x @ x) * (l @ l)), rtol=1e-4)


def test_zero_update_sends_zero_and_keeps_the_look_back():
  codec = codecs.LookBack(threshold=0.2)
  memory = remembering(codec, [np.float32([1, 2])])
  encoded = codec.encode(memory, [np.float32([0, 0])], codec_cases.SEED)
  assert not encoded.message[0]['full']
  assert encoded.message[0]['coefficient'] == 0
  np.testing.assert_array_equal(encoded.memory[0]['look_back'][0], [1, 2])


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_what_is_not_finite_is_never_remembered(bad):
  codec = codecs.LookBack(threshold=1.0)
  memory = remembering(codec, [np.float32([1, 2])])
  encoded = codec.encode(memory, [np.float32([bad, 0])], codec_cases.SEED)
  assert bool(encoded.message[0]['full'])
  np.testing.assert_array_equal(encoded.memory[0]['look_back'][0], [1, 2])


def test_coefficient_beyond_float32_sends_in_full():
  codec = codecs.LookBack(threshold=1.0)
  memory = remembering(codec, [np.float32([1e-30])])
  assert bool(codec.encode(memory, [np.float32([1e30])], codec_cases.SEED).message[0]['full'])


def test_granularities_agree_for_one_tensor_and_differ_for_two(rng):
  l = [rng.normal(size=40).astype(np.float32), rng.normal(size=3).astype(np.float32)]
  x = [l[0] + 0.01 * rng.normal(size=40).astype(np.float32), np.float32([l[0][0], 5, -5])]
  for value, expected in ((x[:1], {'tensor': [False], 'model': [False]}),
                          (x, {'tensor': [False, True], 'model': [True]})):  # fmt: skip
    for granularity, full in expected.items():
      codec = codecs.LookBack(threshold=0.3, granularity=granularity)
      memory = remembering(codec, l[: len(value)])
      message = codec.encode(memory, value, codec_cases.SEED).message
      assert [bool(sent['full']) for sent in message] == full


def test_price_by_hand():
  # Tensors of 3 and 1 numbers. Both full: 2 flags + 3 * 32 + 32 = 130 bits. The first as a
  # scalar: 2 + 32 + 32 = 66. As one block: 1 + 128 = 129, or 1 + 32 = 33.
  l = [np.float32([1, 2, 3]), np.float32([1])]
  x = [np.float32([2, 4, 6]), np.float32([-1])]
  for granularity, first, second in (('tensor', 130, 66), ('model', 129, 129)):
    codec = codecs.LookBack(threshold=0.1, granularity=granularity)
    memory = codec.initial_memory(structures.specs(l))
    encoded = codec.encode(memory, l, codec_cases.SEED)
    assert int(codec.message_bits(encoded.message)) == first
    assert int(codec.official_units(encoded.message)) == 4
    # A single number is always parallel.
    message = codec.encode(encoded.memory, x, codec_cases.SEED).message
    assert int(codec.message_bits(message)) == second
  codec = codecs.LookBack(threshold=0.1, granularity='model')
  message = codec.encode(remembering(codec, l), [2 * l[0], 2 * l[1]], codec_cases.SEED).message
  assert int(codec.message_bits(message)) == 33
  assert int(codec.official_units(message)) == 1
  assert codec.message_price(message)['flag'] == 1
  assert codec.message_price(message)['scalar'] == 32


@given(
  codec_cases.VALUES,
  st.sampled_from(codec_lib.GRANULARITIES),
  st.sampled_from([0.0, 0.2, 1.0]),
  st.sampled_from([0.0, 1.0, -0.5, 1e20]),
)
def test_priced_bits_are_the_packed_ones(value, granularity, threshold, factor):
  codec = codecs.LookBack(threshold=threshold, granularity=granularity)
  memory = codec.initial_memory(structures.specs(value))
  codec_cases.assert_price_is_packed_length(codec, memory, value)
  memory = remembering(codec, value)
  with np.errstate(over='ignore'):
    following = [np.float32(np.clip(factor * x, -3e38, 3e38)) for x in value]
  following[0] = following[0] + np.float32(1)
  _, decoded = codec_cases.assert_price_is_packed_length(codec, memory, following)
  # The bound that the threshold promises, block by block.
  blocks = codec_lib.blocks_of(list(zip(following, decoded, strict=True)), granularity)
  for block in blocks:
    x = np.concatenate([np.float64(a).ravel() for a, _ in block])
    got = np.concatenate([np.float64(b).ravel() for _, b in block])
    assert np.sum((x - got) ** 2) <= threshold * np.sum(x**2) * (1 + 1e-9)


def test_server_reading_the_wire_has_the_same_look_back_vectors(rng):
  """A server that sees packed bytes only, under sampling, rebuilds each client's memory."""
  codec = codecs.LookBack(threshold=0.4)
  shapes = [(5, 3), (3,)]
  spec = [tf.TensorSpec(s, tf.float32) for s in shapes]
  clients = {c: codec.initial_memory(spec) for c in 'abc'}
  server = {c: codec.initial_memory(spec) for c in 'abc'}
  direction = {c: [rng.normal(size=s) for s in shapes] for c in 'abc'}
  kinds = collections.Counter()
  for _ in range(30):
    for c in rng.choice(list('abc'), size=2, replace=False):
      direction[c] = [d + 0.3 * rng.normal(size=d.shape) for d in direction[c]]
      encoded = codec.encode(clients[c], [np.float32(d) for d in direction[c]], codec_cases.SEED)
      clients[c] = encoded.memory
      received = codec.unpack(codec.pack(encoded.message), spec)
      decoded = codec.decode(server[c], received)
      for j, sent in enumerate(received):
        kinds[sent['full']] += 1
        if sent['full']:
          server[c][j] = dict(has=True, look_back=[decoded[j]], inner=())
    for c in 'abc':
      for mine, theirs in zip(clients[c], server[c], strict=True):
        np.testing.assert_array_equal(mine['look_back'][0], theirs['look_back'][0])
  assert kinds[True] > 5 and kinds[False] > 5


def test_measurements_by_hand():
  codec = codecs.LookBack(threshold=0.1)
  memory = remembering(codec, [np.float32([1, 0]), np.float32([1, 1])])
  # The first block is parallel (error 0, coefficient 4), the second orthogonal (error 1).
  encoded = codec.encode(memory, [np.float32([4, 0]), np.float32([1, -1])], codec_cases.SEED)
  means = {name: np.asarray(t) / np.asarray(c) for name, (t, c) in encoded.measurements.items()}
  assert means['scalar_fraction'] == 0.5
  np.testing.assert_array_equal(means['scalar_fraction_by_block'], [1, 0])
  np.testing.assert_allclose(means['lbp_error'], 0.5)
  np.testing.assert_allclose(means['look_back_coefficient'], 4)


def test_half_and_double_precision():
  for dtype in (np.float16, np.float64):
    codec = codecs.LookBack(threshold=0.1)
    l = np.array([1, 2, 3], dtype)
    memory = remembering(codec, [l])
    decoded = codec.decode(memory, codec.encode(memory, [3 * l], codec_cases.SEED).message)
    assert decoded[0].dtype == dtype
    np.testing.assert_array_equal(decoded[0], 3 * l)


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match=r'`threshold` must be in \[0, 1\], found 1.5'):
    codecs.LookBack(threshold=1.5)
  with pytest.raises(ValueError, match="`granularity` must be one of 'tensor', 'model'"):
    codecs.LookBack(granularity='layer')
  with pytest.raises(TypeError, match='`inner` must be a `codecs.Codec`'):
    codecs.LookBack(0.2)
