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
from tff_lowrank.codecs import least_squares


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
      np.testing.assert_allclose(sent['coefficients'], rho, rtol=1e-6)
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
  np.testing.assert_allclose(message[0]['coefficients'], factor, rtol=1e-6)
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
    np.testing.assert_allclose(sent['coefficients'], scale * rho, rtol=1e-5)
  # Turning x around turns the coefficient around, and decides the same.
  sent = codec.encode(memory, [np.float32(-x)], codec_cases.SEED).message[0]
  assert not sent['full']
  np.testing.assert_allclose(sent['coefficients'], -rho, rtol=1e-5)


def test_coefficient_is_the_best_one(rng):
  x, l = rng.normal(size=20), rng.normal(size=20)
  [rho], error = least_squares.project([x], [[l]])
  rho = np.float64(rho)
  for other in (0.99 * rho, 1.01 * rho):
    assert np.sum((x - other * l) ** 2) / (x @ x) > error + 1e-9
  np.testing.assert_allclose(error, 1 - (x @ l) ** 2 / ((x @ x) * (l @ l)), rtol=1e-4)


def test_zero_update_sends_zero_and_keeps_the_look_back():
  codec = codecs.LookBack(threshold=0.2)
  memory = remembering(codec, [np.float32([1, 2])])
  encoded = codec.encode(memory, [np.float32([0, 0])], codec_cases.SEED)
  assert not encoded.message[0]['full']
  assert encoded.message[0]['coefficients'] == 0
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
          server[c][j] = dict(has=True, look_back=[decoded[j]], older=[], inner=())
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


def flat(block):
  return np.concatenate([np.float64(x).ravel() for x in block])


def vectors_of(kept):
  """The look-back vectors that a block's memory holds, the oldest first, each flat."""
  slots = [*kept['older'], kept]
  return [flat(slot['look_back']) for slot in slots if slot['has']]


class Subspace:
  """Look-back at several vectors for one block, in float64, from ALGORITHMS' own words."""

  def __init__(self, vectors, threshold, predictive, inner):
    self.memory, self.vectors, self.threshold = [], vectors, threshold
    self.predictive, self.inner = predictive, inner

  def send(self, block):
    """(whether in full, the coefficients, what is decoded) of one update."""
    x = block if self.predictive else self.inner(block)
    rho, error = np.zeros(0), np.inf
    if self.memory:
      basis = np.stack(self.memory, 1)
      gram = basis.T @ basis
      rho = np.linalg.pinv(gram, rcond=1e-12, hermitian=True) @ (basis.T @ x)
      rho = rho.astype(np.float32).astype(np.float64)
      error = np.sum((x - basis @ rho) ** 2) / np.sum(x**2)
    full = error > self.threshold
    decoded = sum((r * l for r, l in zip(rho, self.memory, strict=True)), np.zeros_like(x))
    if full:
      decoded = decoded + self.inner(x - decoded) if self.predictive else x
      self.memory = [*self.memory, decoded][-self.vectors :]
    return full, rho, decoded


def largest(k):
  def keep(x):
    kept = np.zeros_like(x)
    order = np.argsort(-np.abs(x), kind='stable')[:k]
    kept[order] = x[order]
    return kept

  return keep


@pytest.mark.parametrize('predictive', [False, True])
@pytest.mark.parametrize('inner', [codecs.Identity(), codecs.TopK(20, granularity='model')])
@pytest.mark.parametrize('vectors', [1, 2, 4])
def test_several_vectors_agree_with_the_definitions(rng, vectors, inner, predictive):
  codec = codecs.LookBack(inner, 0.3, 'model', vectors, predictive)
  keep = largest(20) if inner != codecs.Identity() else lambda x: x
  expected = Subspace(vectors, 0.3, predictive, keep)
  basis = rng.normal(size=(3, 45))
  memory = codec.initial_memory([tf.TensorSpec([10, 4]), tf.TensorSpec([5])])
  decisions = []
  for _ in range(40):
    x = rng.normal(size=3) @ basis + 0.3 * rng.normal(size=45)
    value = [np.float32(x[:40]).reshape(10, 4), np.float32(x[40:])]
    encoded = codec.encode(memory, value, codec_cases.SEED)
    [sent] = encoded.message
    full, rho, decoded = expected.send(flat(value))
    assert bool(sent['full']) == full
    assert int(sent['count']) == len(rho)
    if not full or predictive:
      wanted = np.pad(rho, (vectors - len(rho), 0))
      np.testing.assert_allclose(sent['coefficients'], wanted, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(flat(codec.decode(memory, encoded.message)), decoded, atol=2e-5)
    # 1 flag; 32 bits a coefficient; 32 bits a number in full, or 20 of them and their indices.
    price = {kind: int(bits) for kind, bits in codec.message_price(encoded.message).items()}
    assert price['flag'] == 1
    assert price['scalar'] == (32 * len(rho) if predictive or not full else 0)
    assert price['payload'] == (full and 32 * (20 if inner != codecs.Identity() else 45))
    memory = encoded.memory
    for kept, wanted in zip(vectors_of(memory[0]), expected.memory, strict=True):
      np.testing.assert_allclose(kept, wanted, atol=2e-5)
    decisions.append(full)
  # Three vectors span what there is but the noise.
  recycled = 1 - np.mean(decisions)
  assert recycled > 0.4 if vectors == 4 else 0 < recycled < 0.9


def test_price_of_several_vectors_by_hand():
  codec = codecs.LookBack(threshold=0.1, granularity='model', vectors=2)
  value = [np.float32([1, 2, 3, 0]), np.float32([1])]
  memory = codec.initial_memory(structures.specs(value))
  sizes = []
  # In full; parallel: one coefficient; in full; in the span of both: two.
  for x in ([1, 2, 3, 0, 1], [2, 4, 6, 0, 2], [0, 1, 0, 5, 0], [1, 3, 3, 5, 1]):
    block = [np.float32(x[:4]), np.float32(x[4:])]
    encoded = codec.encode(memory, block, codec_cases.SEED)
    sizes.append(
      (int(codec.message_bits(encoded.message)), int(codec.official_units(encoded.message)))
    )
    memory = encoded.memory
  assert sizes == [(1 + 160, 5), (1 + 32, 1), (1 + 160, 5), (1 + 64, 2)]


def test_a_block_shorter_than_its_coefficients_is_sent_in_full():
  codec = codecs.LookBack(threshold=1.0, vectors=3)
  memory = codec.initial_memory([tf.TensorSpec([2])])
  full = []
  for x in ([1, 0], [0, 1], [1, 1], [1, 2]):
    encoded = codec.encode(memory, [np.float32(x)], codec_cases.SEED)
    full.append(bool(encoded.message[0]['full']))
    memory = encoded.memory
  # One coefficient, and two, are no longer than two numbers.
  assert full == [True, False, False, False]
  memory[0]['older'][-1]['has'] = memory[0]['older'][0]['has'] = tf.constant(True)
  assert codec.encode(memory, [np.float32([1, 2])], codec_cases.SEED).message[0]['full']


def test_the_oldest_vector_is_dropped_and_a_bad_one_never_remembered():
  codec = codecs.LookBack(threshold=1e-6, vectors=2)
  memory = codec.initial_memory([tf.TensorSpec([3])])
  for x in ([1, 0, 0], [0, 1, 0], [0, np.nan, 1], [0, 0, 1]):
    memory = codec.encode(memory, [np.float32(x)], codec_cases.SEED).memory
  np.testing.assert_array_equal(vectors_of(memory[0]), [[0, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize('text', ['look_back(vectors=2)', 'look_back(predictive=True)'])
def test_reading_needs_the_memory_where_the_length_depends_on_it(text):
  codec = codecs.parse(text)
  value = [np.float32([1, 2, 3])]
  memory = remembering(codec, value)
  data = codec.pack(codec.encode(memory, value, codec_cases.SEED).message)
  assert len(data) == 5
  assert int(codec.unpack(data, structures.specs(value), memory)[0]['count']) == 1
  with pytest.raises(ValueError, match='cannot read a message without the memory from before it'):
    codec.unpack(data, structures.specs(value))


def test_a_prediction_that_is_enough_leaves_the_inner_memory(rng):
  codec = codecs.LookBack(codecs.ErrorFeedback(codecs.TopK(2)), 0.5, predictive=True)
  value = [np.float32(rng.normal(size=20))]
  first = codec.encode(codec.initial_memory(structures.specs(value)), value, codec_cases.SEED)
  assert np.count_nonzero(first.memory[0]['inner']['residual'][0]) == 18
  again = codec.encode(first.memory, [2 * first.memory[0]['look_back'][0]], codec_cases.SEED)
  assert not again.message[0]['full']
  for a, b in zip(tf.nest.flatten(again.memory), tf.nest.flatten(first.memory), strict=True):
    np.testing.assert_array_equal(a, b)


def test_threshold_0_predicts_always(rng):
  codec = codecs.LookBack(codecs.SignSGD(True), 0.0, vectors=2, predictive=True)
  direction = rng.normal(size=50)
  memory = codec.initial_memory([tf.TensorSpec([50])])
  errors = []
  for _ in range(6):
    x = np.float32(direction)
    encoded = codec.encode(memory, [x], codec_cases.SEED)
    assert encoded.message[0]['full']
    [decoded] = codec.decode(memory, encoded.message)
    errors.append(np.linalg.norm(x - decoded) / np.linalg.norm(x))
    memory = encoded.memory
  # The part of the residual in the last vectors' span is taken out each time.
  assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 3


def test_refuses_bad_numbers_of_vectors_and_filters_of_the_residual():
  for bad in (0, 65):
    with pytest.raises(ValueError, match='`vectors` must be at'):
      codecs.LookBack(vectors=bad)
  with pytest.raises(ValueError, match='look_back cannot be predictive around gaia'):
    codecs.LookBack(codecs.Gaia(accumulate=False), predictive=True)
