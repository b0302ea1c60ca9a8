"""Filters: Gaia sends only large changes of weights, CMFL only updates like the last global one."""

import collections
import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec
from tff_lowrank.codecs import identity
from tff_lowrank.codecs import index_sets
from tff_lowrank.codecs import per_tensor


class Significant(NamedTuple):
  """A tensor's message.

  sent: the tensor, with 0 where nothing is sent.
  indices: int32 [n]; the first `count`, sorted, are the positions of the numbers sent.
  count: int32 [].
  """

  sent: tf.Tensor
  indices: tf.Tensor
  count: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Gaia(per_tensor.PerTensor):
  """Sends the numbers whose update is large compared with the weight that it changes.

  With u the update of a weight and w the weight after it, u is sent if |u| > s |w|. So a weight
  that stays 0 is not sent, and one that becomes 0 is.

  threshold: s for the first message.
  decay: s is threshold / sqrt(1 + t / decay) for the t-th message; None keeps s constant.
  accumulate: whether what is not sent is added to the next update, as in Gaia; if false it is
    lost, as in the comparisons of the APF paper.

  Hsieh et al., Gaia, NSDI 2017; APF's code has threshold 0.01 and decay 10,000. It needs the
  weights that the client received, so it works in this package's learning processes, but not in a
  standard TFF factory. On the wire: the index set, with its size, then the numbers. Official units:
  32-bit floats, without indices.
  """

  threshold: float = 0.01
  decay: float | None = None
  accumulate: bool = True

  name: ClassVar[str] = 'gaia'

  def __post_init__(self) -> None:
    checks.check_in_range('threshold', self.threshold, 0, float('inf'))
    if self.decay is not None:
      checks.check_type('decay', self.decay, (int, float))
      if not self.decay > 0:
        raise ValueError(f'`decay` must be above 0, found {self.decay!r}.')
    checks.check_type('accumulate', self.accumulate, bool)

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(
      contraction=not self.accumulate,
      corrigible=not self.accumulate,
      has_memory=self.accumulate or self.decay is not None,
      variable_size=True,
      needs_model=True,
    )

  def initial_tensor_memory(self, spec: tf.TensorSpec) -> Any:
    rest = structures.zeros(spec) if self.accumulate else ()
    return collections.OrderedDict(rest=rest, messages=tf.constant(0, tf.int32))

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Significant, Any]:
    if model is None:
      raise ValueError('Gaia needs the weights that the client received, found no reference.')
    threshold = tf.constant(self.threshold, tf.float64)
    if self.decay is not None:
      threshold /= tf.sqrt(1 + tf.cast(memory['messages'], tf.float64) / self.decay)
    if self.accumulate:
      x += memory['rest']
    after = tf.cast(model, tf.float64) - tf.cast(x, tf.float64)
    significant = tf.abs(tf.cast(x, tf.float64)) > threshold * tf.abs(after)
    sent = tf.where(significant, x, tf.zeros_like(x))
    flat = tf.reshape(significant, [-1])
    n = structures.size(x)
    message = Significant(
      sent, tf.sort(tf.where(flat, tf.range(n), n)), tf.reduce_sum(tf.cast(flat, tf.int32))
    )
    if not self.has_memory:
      return message, memory
    rest = x - sent if self.accumulate else ()
    return message, collections.OrderedDict(rest=rest, messages=memory['messages'] + 1)

  def decode_tensor(self, message: Significant) -> tf.Tensor:
    return tf.convert_to_tensor(message.sent)

  def _value_bits(self, message: Significant) -> tf.Tensor:
    return tf.cast(message.count, tf.int64) * (message.sent.dtype.size * 8)

  def tensor_price(self, message: Significant) -> ledger.Price:
    n = structures.size(message.sent)
    index = index_sets.bits(n, message.indices, message.count, known=False)
    return ledger.price(payload=self._value_bits(message), index_or_mask=index)

  def tensor_units(self, message: Significant) -> tf.Tensor:
    return self._value_bits(message) // 32

  def write_tensor(self, writer: bit_stream.BitWriter, message: Significant) -> None:
    sent = np.ravel(structures.to_numpy(message.sent))
    indices = np.asarray(message.indices)[: int(message.count)]
    index_sets.write(writer, sent.size, indices, known=False)
    writer.write_array(sent[indices])

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Significant:
    n, dtype = structures.size(spec), spec.dtype.as_numpy_dtype
    indices = index_sets.read(reader, n, None)
    sent = np.zeros(n, dtype)
    sent[indices] = reader.read_array((len(indices),), dtype)
    return Significant(sent.reshape(spec.shape), indices, len(indices))


class Relevant(NamedTuple):
  """CMFL's message. sends: bool []; payload: the inner codec's message, sent if `sends`."""

  sends: tf.Tensor
  payload: Any


def relevance(update: list[tf.Tensor], last_update: list[tf.Tensor]) -> tf.Tensor:
  """float32 []: the share of coordinates with update * last_update >= 0; 1 if there are none."""
  agreeing = [
    # Signs, since a product of small numbers can be 0.
    tf.reduce_sum(tf.cast(tf.sign(u) * tf.sign(g) >= 0, tf.float32))
    for u, g in zip(update, last_update, strict=True)
  ]
  n = structures.num_elements(update)
  return sum(agreeing) / n if n else tf.constant(1.0)


@dataclasses.dataclass(frozen=True)
class CMFL(codec.Codec):
  """A client sends its update only if that agrees with the last global update.

  threshold: the client sends if its relevance (see `relevance`) is above this. In the first round
    the relevance is 1. The paper uses 0.8, and the comparison in the APF paper 0.7.
  inner: the codec for what is sent. The memory of a client that does not send does not change.
  irrelevant: `'exclude'` excludes clients that do not send from the mean, `'zero'` includes them
    with an update of 0, as in the comparisons of the APF paper.

  Wang, Wang, Li: CMFL, ICDCS 2019. On the wire: one flag, then the inner message. The signs of the
  last global update count as downlink bits (see `aggregators.coded_mean.signs_price`). Official
  units: those of the inner codec, 0 if nothing is sent.
  """

  threshold: float = 0.8
  inner: codec.Codec = dataclasses.field(default_factory=identity.Identity)
  irrelevant: str = 'exclude'

  name: ClassVar[str] = 'cmfl'

  def __post_init__(self) -> None:
    checks.check_in_range('threshold', self.threshold, 0, 1)
    codec.resolve_inner(self)
    checks.check_one_of('irrelevant', self.irrelevant, ('exclude', 'zero'))

  @property
  def traits(self) -> codec.Traits:
    inner = self.inner.traits
    return codec.Traits(
      contraction=inner.contraction,
      has_memory=inner.has_memory,
      variable_size=True,
      individual=inner.individual,
      needs_model=inner.needs_model,
      needs_last_update=True,
      whole_client=True,
    )

  def initial_memory(self, value_spec: Any) -> Any:
    return self.inner.initial_memory(value_spec)

  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    if reference is None or reference.last_update is None:
      raise ValueError('CMFL needs the last global update, found no reference.')
    share = relevance(codec.tensors_of(value), reference.last_update)
    sends = share > self.threshold
    inner = self.inner.encode(memory, value, seed, reference)
    measurements = collections.OrderedDict(
      relevance=(share, tf.constant(1.0)), sends=(tf.cast(sends, tf.float32), tf.constant(1.0))
    )
    for name, sums in inner.measurements.items():
      measurements[name] = tuple(tf.where(sends, x, tf.zeros_like(x)) for x in sums)
    takes_part = sends if self.irrelevant == 'exclude' else True
    kept = structures.select(sends, inner.memory, memory)
    return codec.Encoded(Relevant(sends, inner.message), kept, measurements, takes_part)

  def decode(self, memory: Any, message: Relevant) -> list[tf.Tensor]:
    decoded = self.inner.decode(memory, message.payload)
    return [tf.where(message.sends, x, tf.zeros_like(x)) for x in decoded]

  def follow(self, memory: Any, message: Relevant) -> Any:
    return structures.select(message.sends, self.inner.follow(memory, message.payload), memory)

  def message_price(self, message: Relevant) -> ledger.Price:
    inner = self.inner.message_price(message.payload)
    sent = ledger.select(message.sends, inner, ledger.price())
    return ledger.add(ledger.price(flag=ledger.FLAG_BITS), sent)

  def official_units(self, message: Relevant) -> tf.Tensor:
    return tf.where(message.sends, self.inner.official_units(message.payload), 0)

  def write(self, writer: bit_stream.BitWriter, message: Relevant) -> None:
    sends = bool(np.asarray(message.sends))
    writer.write_bit(sends)
    if sends:
      self.inner.write(writer, message.payload)

  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Relevant:
    if reader.read_bit():
      return Relevant(True, self.inner.read(reader, value_spec, memory))
    return Relevant(False, codec.nothing(self.inner, value_spec))
