"""LBGM: recycle the last update that was sent in full.

Azam, Hosseinalipour, Qiu, Brinton: Recycling Model Updates in Federated Learning: Are Gradient
Subspaces Low-Rank? ICLR 2022, https://openreview.net/forum?id=B7ZbqNLDn-_.

For the update x and the look-back vector l, the last update that the client sent in full:
  rho     = <x, l> / |l|^2                   the look-back coefficient
  error   = |x - rho l|^2 / |x|^2            the look-back-phase error, sin^2 of their angle
  send rho if error <= threshold, and the server takes rho l; else send x, and l becomes x.
"""

import collections
from collections.abc import Callable
import dataclasses
import functools
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec
from tff_lowrank.codecs import identity

Block = list[tf.Tensor]


def scale(coefficient: tf.Tensor, look_back: Block) -> Block:
  """`coefficient`, float32 [], times each tensor."""
  return [structures.scale(coefficient, x) for x in look_back]


def project(x: Block, look_back: Block) -> tuple[tf.Tensor, tf.Tensor]:
  """The look-back coefficient, float32 [], and the relative squared error, float64 [].

  The error is that of the vector which the server would reconstruct, residual by residual:
  `1 - cos^2` would lose all digits for parallel vectors. It is 0 for x = 0 and infinite where
  no coefficient helps (l = 0, a coefficient beyond float32, or x not finite).
  """
  squared_x, squared_look_back = structures.dot(x, x), structures.dot(look_back, look_back)
  coefficient = tf.math.divide_no_nan(structures.dot(x, look_back), squared_look_back)
  coefficient = tf.cast(coefficient, tf.float32)
  residual = [a - b for a, b in zip(x, scale(coefficient, look_back), strict=True)]
  error = tf.math.divide_no_nan(structures.dot(residual, residual), squared_x)
  useless = (squared_look_back <= 0) & (squared_x > 0)
  # Least squares: at most 1, but for rounding.
  usable = tf.math.is_finite(error) & ~useless
  return coefficient, tf.where(usable, tf.minimum(error, 1.0), np.inf)


def choose(
  x: Block, look_back: Block, has_look_back: tf.Tensor, threshold: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Whether to send `x` in full, bool []; else the coefficient to send, float32 []; the error."""
  coefficient, error = project(x, look_back)
  recycle = has_look_back & (error <= threshold) if threshold > 0 else tf.constant(False)
  return ~recycle, coefficient, error


def _shifted(fn: Callable[..., Any], start: int, i: int, *parts: Any) -> Any:
  return fn(start + i, *parts)


def measure(
  full: list[tf.Tensor],
  coefficients: list[tf.Tensor],
  errors: list[tf.Tensor],
  has_look_back: list[tf.Tensor],
) -> collections.OrderedDict[str, tuple[tf.Tensor, tf.Tensor]]:
  """Measurements of one client, from one entry a block.

  scalar_fraction: share of the blocks sent as a scalar; scalar_fraction_by_block, [blocks], one
    by one.
  lbp_error: mean look-back-phase error over blocks with a look-back vector, sent as a scalar
    or not.
  look_back_coefficient: mean coefficient of the blocks sent as a scalar.
  """
  recycled = tf.cast(~tf.stack(full), tf.float32)
  errors = tf.cast(tf.stack(errors), tf.float32)
  tested = tf.stack(has_look_back) & tf.math.is_finite(errors)
  coefficients = tf.where(recycled > 0, tf.stack(coefficients), 0.0)
  one = tf.constant(1.0)
  return collections.OrderedDict(
    scalar_fraction=(tf.reduce_mean(recycled), one),
    scalar_fraction_by_block=(recycled, one),
    lbp_error=(
      tf.reduce_sum(tf.where(tested, errors, 0.0)),
      tf.reduce_sum(tf.cast(tested, tf.float32)),
    ),
    look_back_coefficient=(tf.reduce_sum(coefficients), tf.reduce_sum(recycled)),
  )


@dataclasses.dataclass(frozen=True)
class LookBack(codec.Codec):
  """Recycles what `inner` would have sent.

  inner: the codec whose decoded output is recycled.
  threshold: the largest relative squared error, in [0, 1], at which a scalar is sent; 0 sends
    everything in full.
  granularity: `'tensor'` decides for each tensor, `'model'` once for all.

  Memory: an `OrderedDict` with, for each block, `has` (bool, whether a look-back vector
  exists), `look_back` (its tensors) and `inner` (the inner codec's memory).
  Message, for each block: `full` (bool), `coefficient` (float32), `payload` (the inner
  message). On the wire: one flag a block, then 32 bits or the payload.
  A block whose inner message is shorter than a scalar is sent in full.
  Official units: LBGM's, one per scalar sent, else the inner codec's.
  """

  inner: codec.Codec = dataclasses.field(default_factory=identity.Identity)
  threshold: float = 0.2
  granularity: str = 'tensor'

  def __post_init__(self) -> None:
    codec.resolve_inner(self)
    if self.inner.traits.individual:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}: the server never learns what the inner '
        'one would have sent in a round that recycles, so their memories would part.'
      )
    checks.check_in_range('threshold', self.threshold, 0, 1)
    checks.check_one_of('granularity', self.granularity, codec.GRANULARITIES)

  name: ClassVar[str] = 'look_back'

  @property
  def traits(self) -> codec.Traits:
    inner = self.inner.traits
    return codec.Traits(
      contraction=isinstance(self.inner, identity.Identity),
      corrigible=inner.corrigible,
      has_memory=True,
      variable_size=True,
      individual=True,
      needs_model=inner.needs_model,
      fixed_shape=inner.fixed_shape,
    )

  def initial_memory(self, value_spec: Any) -> list[Any]:
    return [
      collections.OrderedDict(
        has=tf.constant(False),
        look_back=structures.zeros(block),
        inner=self.inner.initial_memory(block),
      )
      for block in codec.blocks_of(tf.nest.flatten(value_spec), self.granularity)
    ]

  def encode(
    self, memory: list[Any], value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    blocks = codec.blocks_of(codec.tensors_of(value), self.granularity)
    # Types in comments: AutoGraph knows no annotations of what a loop changes.
    references = [None] * len(blocks)  # type: list[codec.Reference | None]
    if self.inner.traits.needs_model and reference is not None and reference.model is not None:
      models = codec.blocks_of(reference.model, self.granularity)
      references = [codec.Reference(model=model) for model in models]
    messages, new_memory, errors = [], [], []
    inner_measurements = collections.OrderedDict()  # type: dict[str, Any]
    for i, (block, kept) in enumerate(zip(blocks, memory, strict=True)):
      block_seed = tf.random.experimental.stateless_fold_in(seed, i)
      inner = self.inner.encode(kept['inner'], block, block_seed, references[i])
      x = self.inner.decode(kept['inner'], inner.message)
      full, coefficient, error = choose(x, kept['look_back'], kept['has'], self.threshold)
      # What is shorter than a scalar is better sent as it is.
      full |= self.inner.message_bits(inner.message) < ledger.SCALAR_BITS
      # A vector that is not finite is never remembered.
      remember = full & structures.all_finite(x)
      messages.append(
        collections.OrderedDict(full=full, coefficient=coefficient, payload=inner.message)
      )
      new_memory.append(
        collections.OrderedDict(
          has=kept['has'] | remember,
          look_back=structures.select(remember, x, kept['look_back']),
          inner=inner.memory,
        )
      )
      errors.append(error)
      for name, (total, count) in inner.measurements.items():
        sums = inner_measurements.get(name, (0.0, 0.0))
        inner_measurements[name] = (sums[0] + total, sums[1] + count)
    measurements = measure(
      [m['full'] for m in messages],
      [m['coefficient'] for m in messages],
      errors,
      [kept['has'] for kept in memory],
    )
    measurements.update(inner_measurements)
    return codec.Encoded(messages, new_memory, measurements)

  def decode(self, memory: list[Any], message: list[Any]) -> list[tf.Tensor]:
    decoded = []
    for kept, sent in zip(memory, message, strict=True):
      decoded += structures.select(
        sent['full'],
        self.inner.decode(kept['inner'], sent['payload']),
        scale(sent['coefficient'], kept['look_back']),
      )
    return decoded

  def follow(self, memory: list[Any], message: list[Any]) -> list[Any]:
    new_memory = []
    for kept, sent in zip(memory, message, strict=True):
      x = self.inner.decode(kept['inner'], sent['payload'])
      remember = sent['full'] & structures.all_finite(x)
      new_memory.append(
        collections.OrderedDict(
          has=kept['has'] | remember,
          look_back=structures.select(remember, x, kept['look_back']),
          inner=kept['inner'],  # No codec that may be inside reads it to decode.
        )
      )
    return new_memory

  def map_memory(self, fn: Callable[..., Any], *memories: Any) -> list[Any]:
    mapped, start = [], 0
    for blocks in zip(*memories, strict=True):
      in_block = functools.partial(_shifted, fn, start)
      vectors = zip(*(kept['look_back'] for kept in blocks), strict=True)
      mapped.append(
        collections.OrderedDict(
          has=blocks[-1]['has'],
          look_back=[in_block(i, *parts) for i, parts in enumerate(vectors)],
          inner=self.inner.map_memory(in_block, *(kept['inner'] for kept in blocks)),
        )
      )
      start += len(mapped[-1]['look_back'])
    return mapped

  def message_price(self, message: list[Any]) -> ledger.Price:
    flags = ledger.price(flag=ledger.FLAG_BITS * len(message))
    scalar = ledger.price(scalar=ledger.SCALAR_BITS)
    return ledger.add(
      flags,
      *(
        ledger.select(sent['full'], self.inner.message_price(sent['payload']), scalar)
        for sent in message
      ),
    )

  def official_units(self, message: list[Any]) -> tf.Tensor:
    return sum(
      tf.where(sent['full'], self.inner.official_units(sent['payload']), tf.constant(1, tf.int64))
      for sent in message
    )

  def write(self, writer: bit_stream.BitWriter, message: list[Any]) -> None:
    for sent in message:
      full = bool(np.asarray(sent['full']))
      writer.write_bit(full)
      if full:
        self.inner.write(writer, sent['payload'])
      else:
        writer.write_array(np.asarray(sent['coefficient'], np.float32))

  def read(self, reader: bit_stream.BitReader, value_spec: Any) -> list[Any]:
    return [
      self._read_block(reader, block)
      for block in codec.blocks_of(tf.nest.flatten(value_spec), self.granularity)
    ]

  def _read_block(self, reader: bit_stream.BitReader, block: list[tf.TensorSpec]) -> Any:
    if reader.read_bit():
      coefficient = np.zeros((), np.float32)
      payload = self.inner.read(reader, block)
      return collections.OrderedDict(full=True, coefficient=coefficient, payload=payload)
    coefficient = reader.read_array((), np.float32)
    # Not sent, and masked by `full`: any message of the right structure serves.
    nothing = codec.nothing(self.inner, block)
    return collections.OrderedDict(full=False, coefficient=coefficient, payload=nothing)
