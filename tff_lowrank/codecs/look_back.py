"""LBGM: a client sends a coefficient for its last full update in place of a new update.

Azam, Hosseinalipour, Qiu, Brinton: Recycling Model Updates in Federated Learning: Are Gradient
Subspaces Low-Rank? ICLR 2022, https://openreview.net/forum?id=B7ZbqNLDn-_.

For the update x and the look-back vector l, the last update that the client sent in full:
  rho     = <x, l> / |l|^2                   the look-back coefficient
  error   = |x - rho l|^2 / |x|^2            the look-back-phase error, sin^2 of their angle
  send rho if error <= threshold, and the server uses rho l; else send x, and l becomes x.

With several look-back vectors, which is not in the paper, l_1 to l_m are the last updates that were
sent in full, the oldest first, and rho_1 to rho_m are the numbers with the least
  error   = |x - sum_i rho_i l_i|^2 / |x|^2
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
from tff_lowrank.codecs import least_squares

Block = list[tf.Tensor]


def choose(
  x: Block, vectors: list[Block], has_look_back: tf.Tensor, threshold: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """Whether to send `x` in full, bool []; the coefficients, float32 [r]; the error."""
  coefficients, error = least_squares.project(x, vectors)
  recycle = has_look_back & (error <= threshold) if threshold > 0 else tf.constant(False)
  return ~recycle, coefficients, error


def _shifted(fn: Callable[..., Any], start: int, i: int, *parts: Any) -> Any:
  return fn(start + i, *parts)


def measure(
  full: list[tf.Tensor],
  coefficients: list[tf.Tensor],
  errors: list[tf.Tensor],
  has_look_back: list[tf.Tensor],
) -> collections.OrderedDict[str, tuple[tf.Tensor, tf.Tensor]]:
  """Measurements of one client. Each argument has one entry for each block.

  scalar_fraction: the fraction of blocks that are sent as coefficients.
  scalar_fraction_by_block: [blocks], the same for each block.
  lbp_error: the mean look-back-phase error over all blocks that have a look-back vector.
  look_back_coefficient: the mean coefficient of the newest vector, over the blocks that are sent as
    coefficients.
  """
  recycled = tf.cast(~tf.stack(full), tf.float32)
  errors = tf.cast(tf.stack(errors), tf.float32)
  tested = tf.stack(has_look_back) & tf.math.is_finite(errors)
  newest = tf.stack([numbers[-1] for numbers in coefficients])
  coefficients = tf.where(recycled > 0, newest, 0.0)
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
  """LBGM: sends look-back coefficients if they are close enough, else the message of `inner`.

  inner: the codec for full updates. Look-back vectors are what it decodes to.
  threshold: the largest relative squared error, in [0, 1], at which coefficients are sent; 0
    sends everything in full.
  granularity: `'tensor'` decides for each tensor, `'model'` once for all tensors.
  vectors: r, the number of look-back vectors, at most 64; 1 is LBGM. Both sides keep r models per
    client.
  predictive: if true, a full message has the coefficients too, and `inner` compresses the residual
    x - sum_i rho_i l_i in place of x; the server adds the two. The error is then measured on the
    update itself. With a threshold of 0 this is done in every round.

  The memory has an `OrderedDict` for each block: `has` (bool, whether a look-back vector exists),
  `look_back` (the tensors of the newest vector), `older` (a list of r - 1 pairs of `has` and
  `look_back`, the oldest first; those that exist come last) and `inner` (the inner codec's memory).
  The message has, for each block: `full` (bool), `coefficients` (float32 [r], the oldest vector's
  first; 0 for vectors that do not exist), `count` (int32, m, how many vectors exist) and `payload`
  (the inner message).
  On the wire, for each block: one flag, then 32 m bits of coefficients, or the payload, or both if
  predictive. The reader knows m from its memory; LBGM with one vector does not need it.
  A block whose inner message is shorter than the coefficients is sent in full.
  Official units: one for each coefficient, as in LBGM, and those of the inner codec where it sends.
  """

  inner: codec.Codec = dataclasses.field(default_factory=identity.Identity)
  threshold: float = 0.2
  granularity: str = 'tensor'
  vectors: int = 1
  predictive: bool = False

  def __post_init__(self) -> None:
    codec.resolve_inner(self)
    if self.inner.traits.individual:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}: where a coefficient is sent, the server '
        'does not learn what the inner codec would have sent, so their memories would differ.'
      )
    checks.check_in_range('threshold', self.threshold, 0, 1)
    checks.check_one_of('granularity', self.granularity, codec.GRANULARITIES)
    checks.check_at_least('vectors', self.vectors, 1)
    if self.vectors > self.MAX_VECTORS:
      raise ValueError(f'`vectors` must be at most {self.MAX_VECTORS}, found {self.vectors}.')
    checks.check_type('predictive', self.predictive, bool)
    if self.predictive and self.inner.traits.needs_model:
      raise ValueError(
        f'{self.name} cannot be predictive around {self.inner.name}, which compares an update with '
        'the model, but would get only a residual here.'
      )

  name: ClassVar[str] = 'look_back'

  MAX_VECTORS: ClassVar[int] = 64

  @property
  def traits(self) -> codec.Traits:
    inner = self.inner.traits
    exact = isinstance(self.inner, identity.Identity)
    return codec.Traits(
      contraction=inner.contraction if self.predictive else exact,
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
        older=[
          collections.OrderedDict(has=tf.constant(False), look_back=structures.zeros(block))
          for _ in range(self.vectors - 1)
        ],
        inner=self.inner.initial_memory(block),
      )
      for block in codec.blocks_of(tf.nest.flatten(value_spec), self.granularity)
    ]

  def memory_with(
    self, vectors: list[Block], exist: tf.Tensor, inner_memories: list[Any]
  ) -> list[Any]:
    """A memory, from its parts.

    Args:
      vectors: The r look-back vectors, as lists of tensors, the oldest first.
      exist: bool [r], which of them exist: the last ones. The others are zeros.
      inner_memories: The inner codec's memory for each block.
    """
    blocks = [codec.blocks_of(vector, self.granularity) for vector in vectors]
    memory = []
    for j, inner in enumerate(inner_memories):
      kept = [
        collections.OrderedDict(has=exist[i], look_back=vector[j])
        for i, vector in enumerate(blocks)
      ]
      memory.append(collections.OrderedDict(kept[-1], older=kept[:-1], inner=inner))
    return memory

  def encode(
    self, memory: list[Any], value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    blocks = codec.blocks_of(codec.tensors_of(value), self.granularity)
    # Types are in comments: AutoGraph does not support annotations of variables changed in loops.
    references = [None] * len(blocks)  # type: list[codec.Reference | None]
    if self.inner.traits.needs_model and reference is not None and reference.model is not None:
      models = codec.blocks_of(reference.model, self.granularity)
      references = [codec.Reference(model=model) for model in models]
    messages, new_memory, errors = [], [], []
    inner_measurements = collections.OrderedDict()  # type: dict[str, Any]
    for i, (block, kept) in enumerate(zip(blocks, memory, strict=True)):
      block_seed = tf.random.experimental.stateless_fold_in(seed, i)
      encode_block = self._predict if self.predictive else self._recycle
      sent, x, inner, error = encode_block(kept, block, block_seed, references[i])
      messages.append(sent)
      new_memory.append(_push(kept, sent['full'], x, inner.memory))
      errors.append(error)
      for name, (total, count) in inner.measurements.items():
        sums = inner_measurements.get(name, (0.0, 0.0))
        inner_measurements[name] = (sums[0] + total, sums[1] + count)
    measurements = measure(
      [m['full'] for m in messages],
      [m['coefficients'] for m in messages],
      errors,
      [kept['has'] for kept in memory],
    )
    measurements.update(inner_measurements)
    return codec.Encoded(messages, new_memory, measurements)

  def _recycle(
    self, kept: Any, block: Block, seed: tf.Tensor, reference: codec.Reference | None
  ) -> tuple[Any, Block, codec.Encoded, tf.Tensor]:
    """A block's message, what it decodes to if sent in full, the inner encoding, and the error."""
    inner = self.inner.encode(kept['inner'], block, seed, reference)
    x = self.inner.decode(kept['inner'], inner.message)
    full, coefficients, error = choose(x, _vectors(kept), kept['has'], self.threshold)
    count = _count(kept)
    # A message that is shorter than the coefficients is sent in full.
    full |= self.inner.message_bits(inner.message) < _coefficient_bits(count)
    return _message(full, coefficients, count, inner.message), x, inner, error

  def _predict(
    self, kept: Any, block: Block, seed: tf.Tensor, reference: codec.Reference | None
  ) -> tuple[Any, Block, codec.Encoded, tf.Tensor]:
    """As `_recycle`, but `inner` gets the residual. Its memory changes only if it sends."""
    full, coefficients, error = choose(block, _vectors(kept), kept['has'], self.threshold)
    coefficients = tf.where(tf.math.is_finite(error), coefficients, 0.0)
    predicted = least_squares.combine(coefficients, _vectors(kept))
    residual = [a - b for a, b in zip(block, predicted, strict=True)]
    inner = self.inner.encode(kept['inner'], residual, seed, reference)
    inner = inner._replace(memory=structures.select(full, inner.memory, kept['inner']))
    sent = _message(full, coefficients, _count(kept), inner.message)
    return sent, self._in_full(kept, sent), inner, error

  def _in_full(self, kept: Any, sent: Any) -> Block:
    """The tensors that a block's message decodes to if it is sent in full."""
    x = self.inner.decode(kept['inner'], sent['payload'])
    if not self.predictive:
      return x
    combined = least_squares.combine(sent['coefficients'], _vectors(kept))
    return [a + b for a, b in zip(combined, x, strict=True)]

  def decode(self, memory: list[Any], message: list[Any]) -> list[tf.Tensor]:
    decoded = []
    for kept, sent in zip(memory, message, strict=True):
      combined = least_squares.combine(sent['coefficients'], _vectors(kept))
      decoded += structures.select(sent['full'], self._in_full(kept, sent), combined)
    return decoded

  def follow(self, memory: list[Any], message: list[Any]) -> list[Any]:
    # The codecs that may be inside do not read their memory to decode.
    return [
      _push(kept, sent['full'], self._in_full(kept, sent), kept['inner'])
      for kept, sent in zip(memory, message, strict=True)
    ]

  def map_memory(self, fn: Callable[..., Any], *memories: Any) -> list[Any]:
    mapped, start = [], 0
    for blocks in zip(*memories, strict=True):
      in_block = functools.partial(_shifted, fn, start)
      older = zip(*(kept['older'] for kept in blocks), strict=True)
      mapped.append(
        collections.OrderedDict(
          **_mapped(in_block, blocks),
          older=[_mapped(in_block, parts) for parts in older],
          inner=self.inner.map_memory(in_block, *(kept['inner'] for kept in blocks)),
        )
      )
      start += len(mapped[-1]['look_back'])
    return mapped

  def message_price(self, message: list[Any]) -> ledger.Price:
    prices = [ledger.price(flag=ledger.FLAG_BITS * len(message))]
    for sent in message:
      coefficients = ledger.price(scalar=_coefficient_bits(sent['count']))
      full = self.inner.message_price(sent['payload'])
      if self.predictive:
        full = ledger.add(coefficients, full)
      prices.append(ledger.select(sent['full'], full, coefficients))
    return ledger.add(*prices)

  def official_units(self, message: list[Any]) -> tf.Tensor:
    units = []
    for sent in message:
      coefficients = tf.cast(sent['count'], tf.int64)
      full = tf.cast(self.inner.official_units(sent['payload']), tf.int64)
      full += coefficients if self.predictive else 0
      units.append(tf.where(sent['full'], full, coefficients))
    return sum(units)

  def write(self, writer: bit_stream.BitWriter, message: list[Any]) -> None:
    for sent in message:
      full, count = bool(np.asarray(sent['full'])), int(sent['count'])
      writer.write_bit(full)
      if self.predictive or not full:
        coefficients = np.asarray(sent['coefficients'], np.float32)
        writer.write_array(coefficients[self.vectors - count :])
      if full:
        self.inner.write(writer, sent['payload'])

  def read(
    self, reader: bit_stream.BitReader, value_spec: Any, memory: list[Any] | None = None
  ) -> list[Any]:
    blocks = codec.blocks_of(tf.nest.flatten(value_spec), self.granularity)
    memory = memory or [None] * len(blocks)
    return [
      self._read_block(reader, block, kept) for block, kept in zip(blocks, memory, strict=True)
    ]

  def _read_block(
    self, reader: bit_stream.BitReader, block: list[tf.TensorSpec], kept: Any | None
  ) -> Any:
    full = reader.read_bit()
    coefficients, count = np.zeros(self.vectors, np.float32), 0
    if self.predictive or not full:
      count = self._known_count(kept)
      coefficients[self.vectors - count :] = reader.read_array((count,), np.float32)
    if full:
      payload = self.inner.read(reader, block, kept and kept['inner'])
    else:
      # Not sent, and ignored because of `full`: any message of the right structure will do.
      payload = codec.nothing(self.inner, block)
    return _message(full, coefficients, np.int32(count), payload)

  def _known_count(self, kept: Any | None) -> int:
    """The number of look-back vectors, as the reader of a message knows it."""
    if kept is not None:
      return int(_count(kept))
    if self.vectors == 1 and not self.predictive:
      return 1
    raise ValueError(
      f'{self} cannot read a message without the memory from before it, on which the number of '
      'coefficients depends.'
    )


def _message(full: Any, coefficients: Any, count: Any, payload: Any) -> Any:
  return collections.OrderedDict(full=full, coefficients=coefficients, count=count, payload=payload)


def _push(kept: Any, full: tf.Tensor, x: Block, inner: Any) -> Any:
  """A block's memory after a message. `x`: its value if sent in full; `inner`: the inner memory."""
  # A vector that is not finite is not remembered.
  remember = full & structures.all_finite(x)
  newest = collections.OrderedDict(has=kept['has'], look_back=kept['look_back'])
  return collections.OrderedDict(
    has=kept['has'] | remember,
    look_back=structures.select(remember, x, kept['look_back']),
    older=structures.select(remember, [*kept['older'], newest][1:], kept['older']),
    inner=inner,
  )


def _vectors(kept: Any) -> list[Block]:
  """A block's look-back vectors, the oldest first."""
  return [*(earlier['look_back'] for earlier in kept['older']), kept['look_back']]


def _count(kept: Any) -> tf.Tensor:
  """int32 []: how many of them exist."""
  exists = [*(earlier['has'] for earlier in kept['older']), kept['has']]
  return tf.reduce_sum(tf.cast(tf.stack(exists), tf.int32))


def _coefficient_bits(count: Any) -> tf.Tensor:
  return tf.cast(count, tf.int64) * ledger.SCALAR_BITS


def _mapped(fn: Callable[..., Any], parts: Any) -> Any:
  vectors = zip(*(kept['look_back'] for kept in parts), strict=True)
  return collections.OrderedDict(
    has=parts[-1]['has'], look_back=[fn(i, *tensors) for i, tensors in enumerate(vectors)]
  )
