"""Tests for codecs, including your own.

Each function raises AssertionError, with the values found, if the codec fails the test.
`check_contract` runs all tests that apply according to the codec's traits:

  testing.check_contract(MyCodec(), testing.edge_values() + [my_update])
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank import structures

SEED = (0, 1)


def edge_values(dtype: tf.DType = tf.float32) -> list[list[np.ndarray]]:
  """Edge cases for codecs: a list of values, each a list of tensors.

  dtype: float16, bfloat16, float32 or float64; magnitudes are as far below its largest number as
    10^36 is below that of float32.
  """
  rng = np.random.default_rng(0)
  normal = rng.normal(size=(7, 5)).astype(np.float32)
  values = [
    [normal, normal[0], np.float32(-1.5)],
    [np.zeros((0, 3), np.float32), np.array([2], np.float32)],
    [np.zeros((4, 5), np.float32)],
    [np.array([0, 0, 1e-40, -1e-44, 0], np.float32)],
    [np.float32(1e36) * np.sign(normal), np.array([1e36, -1e-38], np.float32)],
    [np.ones((3, 4, 2, 3), np.float32)],  # All equal.
    [np.float32(10.0) ** rng.integers(-30, 30, size=(9, 3))],
    [np.where(rng.random((33, 9)) < 0.1, normal[0, 0], 0).astype(np.float32)],
  ]
  largest = float(dtype.max) / float(tf.float32.max) * 1e36

  def cast(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.float64(x), -largest, largest), dtype.as_numpy_dtype)

  return values if dtype == tf.float32 else tf.nest.map_structure(cast, values)


def _tensors(value: Any) -> list[tf.Tensor]:
  return [tf.convert_to_tensor(x) for x in tf.nest.flatten(value)]


def reference_for(codec: codecs.Codec, value: Any) -> codecs.Reference | None:
  """Random weights and a random last update, if `codec` needs them."""
  rng = np.random.default_rng(1)

  def draw() -> list[tf.Tensor]:
    return [tf.constant(rng.normal(size=x.shape), x.dtype) for x in _tensors(value)]

  traits = codec.traits
  if not traits.needs_model and not traits.needs_last_update:
    return None
  return codecs.Reference(model=draw(), last_update=draw())


# The difference between 1 and the next number.
_EPSILON = {tf.float16: 2.0**-10, tf.bfloat16: 2.0**-7}
# For bfloat16 and float32; TensorFlow may treat smaller numbers as 0.
_SMALLEST_NORMAL = 2.0**-126


def _tolerance(value: Any, single: float = 1e-5) -> float:
  """The allowed relative rounding error for the coarsest dtype; `single` from float32 up."""
  return max(2 * _EPSILON.get(x.dtype, 0) for x in _tensors(value)) or single


def _initial_memory(codec: codecs.Codec, value: Any) -> Any:
  return codec.initial_memory(structures.specs(value))


def _encode(codec: codecs.Codec, memory: Any, value: Any, seed: Sequence[int]) -> codecs.Encoded:
  return codec.encode(memory, value, tf.constant(seed, tf.int32), reference_for(codec, value))


def _assert_same(found: Any, expected: Any, what: str) -> None:
  for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
    np.testing.assert_array_equal(structures.to_numpy(a), structures.to_numpy(b), err_msg=what)


def _distance(a: Sequence[tf.Tensor], b: Sequence[tf.Tensor]) -> float:
  """The Euclidean norm of a - b, in float64."""
  total = sum(
    np.sum((np.float64(structures.to_numpy(x)) - np.float64(structures.to_numpy(y))) ** 2)
    for x, y in zip(a, b, strict=True)
  )
  return float(np.sqrt(total))


def _norm(value: Any) -> float:
  tensors = _tensors(value)
  return _distance(tensors, [np.zeros(x.shape) for x in tensors])


class _Sent(NamedTuple):
  """A value, the client's memory before it, and what it is encoded, decoded and packed to."""

  value: Any
  memory: Any
  encoded: codecs.Encoded
  decoded: list[tf.Tensor]
  packed: bytes


class _Messages(list):
  """Successive updates of one client. sent: their messages, which several tests share."""

  def __init__(self, codec: codecs.Codec, values: Sequence[Any]):
    super().__init__(values)
    self.sent: list[_Sent] = []
    memory = _initial_memory(codec, values[0])
    for i, value in enumerate(values):
      encoded = _encode(codec, memory, value, (0, i))
      decoded = codec.decode(memory, encoded.message)
      self.sent.append(_Sent(value, memory, encoded, decoded, codec.pack(encoded.message)))
      memory = encoded.memory


def _sent(codec: codecs.Codec, values: Sequence[Any]) -> list[_Sent]:
  messages = values if isinstance(values, _Messages) else _Messages(codec, values)
  return messages.sent


def check_round_trip(codec: codecs.Codec, values: Sequence[Any]) -> None:
  """Messages decode to the same bits after packing to bytes, in the value's shapes and dtypes.

  `values` are successive updates of one client, here and below.
  """
  for value, memory, _, decoded, packed in _sent(codec, values):
    arrived = codec.unpack(packed, structures.specs(value), memory)
    _assert_same(codec.decode(memory, arrived), decoded, f'{codec}: round trip')
    for x, y in zip(_tensors(value), decoded, strict=True):
      if (x.shape, x.dtype) != (y.shape, y.dtype):
        raise AssertionError(f'{codec}: {x.dtype} {x.shape} decodes to {y.dtype} {y.shape}.')


def check_size(codec: codecs.Codec, values: Sequence[Any]) -> None:
  """The reported cost equals the size of the packed message, up to padding of the last byte."""
  sizes = set()
  for sent in _sent(codec, values):
    bits, packed = int(codec.message_bits(sent.encoded.message)), 8 * len(sent.packed)
    if not 0 <= packed - bits < 8:
      raise AssertionError(
        f'{codec}: reported cost {bits} bits, packed {packed}, for {sent.value}.'
      )
    sizes.add(bits)
  if len(sizes) > 1 and not codec.traits.variable_size:
    raise AssertionError(
      f'{codec}: sizes {sizes}, but its traits say that all messages have one size.'
    )


def check_unbiased(codec: codecs.Codec, value: Any, num_seeds: int = 2000) -> None:
  """The mean over seeds is the value, coordinate by coordinate, within six standard errors."""
  memory, reference = _initial_memory(codec, value), reference_for(codec, value)
  tensors = _tensors(value)

  def decoded(seed: tf.Tensor) -> list[tf.Tensor]:
    return list(codec.decode(memory, codec.encode(memory, tensors, seed, reference).message))

  @tf.function
  def draw(seeds: tf.Tensor) -> list[tf.Tensor]:
    specs = [tf.TensorSpec(x.shape, x.dtype) for x in tensors]
    return tf.map_fn(decoded, seeds, fn_output_signature=specs)

  draws = draw(tf.constant([[7, i] for i in range(num_seeds)], tf.int32))
  for tensor, drawn in zip(tensors, draws, strict=True):
    samples, x = (np.asarray(structures.to_numpy(y), np.float64) for y in (drawn, tensor))
    # Rare values may occur too rarely to estimate the standard deviation.
    error = samples.std(0) / np.sqrt(num_seeds)
    off = np.abs(samples.mean(0) - x)
    bound = 6 * error + _tolerance(value) * np.abs(x).max(initial=0)
    if not (off <= bound).all():
      raise AssertionError(f'{codec}: mean {samples.mean(0)} of {num_seeds}, expected {x}.')


def check_contraction(codec: codecs.Codec, value: Any) -> None:
  """The error of the decoded value is at most the norm of the value."""
  memory = _initial_memory(codec, value)
  decoded = codec.decode(memory, _encode(codec, memory, value, SEED).message)
  error, norm = _distance(decoded, _tensors(value)), _norm(value)
  if not error <= norm * (1 + _tolerance(value)):
    raise AssertionError(f'{codec}: error {error} of a value of norm {norm}.')


def check_linear(codec: codecs.Codec, a: Any, b: Any) -> None:
  """The decoded messages of `a` and `b`, with the same seed, sum to that of `a + b`."""
  memory = _initial_memory(codec, a)
  both = [x + y for x, y in zip(_tensors(a), _tensors(b), strict=True)]
  one, other, total = (
    codec.decode(memory, _encode(codec, memory, v, SEED).message) for v in (a, b, both)
  )
  error = _distance([x + y for x, y in zip(one, other, strict=True)], total)
  if not error <= _tolerance(a) * (_norm(one) + _norm(other)):
    raise AssertionError(f'{codec}: decoded sums differ by {error}.')


def check_conservation(codec: codecs.ErrorFeedback, values: Sequence[Any]) -> None:
  """The sum of all decoded values plus the residual equals the sum of all updates."""
  left = [np.zeros(x.shape) for x in _tensors(values[0])]
  largest = 0.0
  for value, _, encoded, decoded, _ in _sent(codec, values):
    memory = encoded.memory
    left = [
      r + np.float64(structures.to_numpy(x)) - np.float64(structures.to_numpy(d))
      for r, x, d in zip(left, _tensors(value), decoded, strict=True)
    ]
    largest = max(largest, _norm(value), _norm(memory['residual']))
  error = _distance(left, memory['residual'])
  rounding = _tolerance(values, 1e-6) * len(values) * largest
  if not error <= rounding + _SMALLEST_NORMAL:
    raise AssertionError(f'{codec}: {error} lost in {len(values)} rounds of size {largest}.')


def check_memory_symmetry(codec: codecs.Codec, values: Sequence[Any]) -> None:
  """A server that only gets bytes, and mirrors the memory, decodes the same as the client."""
  mirror = _initial_memory(codec, values[0])
  for i, sent in enumerate(_sent(codec, values)):
    arrived = codec.unpack(sent.packed, structures.specs(sent.value), mirror)
    _assert_same(codec.decode(mirror, arrived), sent.decoded, f'{codec}: mirror, round {i}')
    mirror = codec.follow(mirror, arrived)


def check_keeps_nothing(codec: codecs.Codec, values: Sequence[Any]) -> None:
  """Two interleaved clients get the same results as alone: all state is in the memory."""
  sent = _sent(codec, values)
  memories = [_initial_memory(codec, values[0]) for _ in range(2)]
  for i, value in enumerate(values):
    for client, name in enumerate(('first', 'second')):
      encoded = _encode(codec, memories[client], value, (0, i))
      decoded = codec.decode(memories[client], encoded.message)
      _assert_same(decoded, sent[i].decoded, f'{codec}: {name} of two')
      memories[client] = encoded.memory


def check_refuses_integers(codec: codecs.Codec) -> None:
  """Raises TypeError for tensors that are not floats."""
  floats = [np.array([1, 2], np.float32)]
  memory = _initial_memory(codec, floats)
  reference = reference_for(codec, floats)
  try:
    codec.encode(memory, [np.array([1, 2], np.int32)], tf.constant(SEED), reference)
  except TypeError:
    return
  raise AssertionError(f'{codec}: accepted integers.')


def check_contract(codec: codecs.Codec | str, values: Sequence[Any]) -> None:
  """Runs the tests for all codecs, and those for properties that the traits of `codec` claim."""
  codec = codecs.resolve(codec)
  traits = codec.traits
  check_refuses_integers(codec)
  for value in values:
    row = [_tensors(value)]
    if traits.has_memory:
      row += [[0.9 * x for x in row[0]], [0 * x for x in row[0]]]
    messages = _Messages(codec, row)
    for law in (check_round_trip, check_size, check_memory_symmetry, check_keeps_nothing):
      law(codec, messages)
    if traits.contraction:
      check_contraction(codec, value)
    if traits.linear:
      check_linear(codec, value, [x[::-1] if x.shape.rank else x for x in row[0]])
    if isinstance(codec, codecs.ErrorFeedback):
      check_conservation(codec, messages)
  if traits.unbiased:
    check_unbiased(codec, values[0])
