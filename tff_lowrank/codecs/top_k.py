"""Sparsification: sends the largest elements, or a random choice of them."""

import abc
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


def check_amount(amount: float | int) -> None:
  """Raises unless `amount` is a fraction, float in (0, 1], or a count, int of at least 1."""
  if isinstance(amount, float):
    if not 0 < amount <= 1:
      raise ValueError(f'`amount` as a share must be in (0, 1], found {amount!r}.')
  else:
    checks.check_at_least('amount', amount, 1)


def kept(amount: float | int, n: Any) -> Any:
  """How many of `n` elements are kept: max(1, floor(amount n)) for a fraction, min(amount, n) else.

  An int if `n` is one, else int64 [].
  """
  if isinstance(amount, int):
    return min(amount, n) if isinstance(n, int) else tf.minimum(tf.constant(amount, tf.int64), n)
  # 0.29 * 100 is 28.999999999999996.
  if isinstance(n, int):
    return min(n, max(1, int(amount * n + 1e-9)))
  share = tf.cast(tf.floor(amount * tf.cast(n, tf.float64) + 1e-9), tf.int64)
  return tf.minimum(n, tf.maximum(share, 1))


class Sparse(NamedTuple):
  """The message: some elements of each block.

  indices: for each block, int32 [k], sorted.
  values: the inner codec's message for the vectors of k elements, of the block's common dtype.
  seed: int32 [2].
  sizes, specs: of the tensors of each block, known to both sides.
  """

  indices: list[tf.Tensor]
  values: Any
  seed: tf.Tensor
  sizes: list[list[Any]]
  specs: list[list[tf.TensorSpec]]


def common_dtype(block: list[Any]) -> tf.DType:
  """The dtype that holds the numbers of all tensors, or specs, of a block without loss."""
  dtypes = {x.dtype for x in block}
  if len(dtypes) == 1:
    return dtypes.pop()
  return tf.float64 if tf.float64 in dtypes else tf.float32


def _concatenated(block: list[tf.Tensor]) -> tf.Tensor:
  dtype = common_dtype(block)
  return tf.concat([tf.cast(tf.reshape(x, [-1]), dtype) for x in block], 0)


def _split(vector: tf.Tensor, sizes: list[Any], specs: list[tf.TensorSpec]) -> list[tf.Tensor]:
  if len(sizes) == 1 and not specs[0].shape.is_fully_defined():
    return [vector]
  parts = [tf.cast(x, spec.dtype) for x, spec in zip(tf.split(vector, sizes), specs, strict=True)]
  # A tensor without a static shape is a vector.
  return [
    tf.reshape(part, spec.shape) if spec.shape.is_fully_defined() else part
    for part, spec in zip(parts, specs, strict=True)
  ]


def scattered(
  indices: tf.Tensor, vector: tf.Tensor, sizes: list[Any], specs: list[tf.TensorSpec]
) -> list[tf.Tensor]:
  """The tensors of a block, with the elements of `vector` at `indices` and 0 elsewhere."""
  n = [tf.cast(sum(sizes), tf.int32)]
  return _split(tf.scatter_nd(tf.expand_dims(indices, 1), vector, n), sizes, specs)


def _threshold(order: tf.Tensor, k: Any) -> tuple[tf.Tensor, tf.Tensor]:
  """A value that at least k of the integers `order`, [n], reach; and how many do, int32 [].

  If more than k do, the k-th largest is not unique, and the value is the k-th largest. `k` is an
  int, or int32 []. The value is found bit by bit, with one pass over the elements for each bit,
  which is faster than `tf.math.top_k`.
  """
  search = _eager_search_threshold if tf.executing_eagerly() else _search_threshold
  return search(order, tf.convert_to_tensor(k, tf.int32))


def _search_threshold(order: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  zero, one = tf.zeros([], order.dtype), tf.ones([], order.dtype)

  def count(value: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(order >= value, tf.int32))

  def add_bit(bit: tf.Tensor, value: tf.Tensor, reached: tf.Tensor) -> tuple[tf.Tensor, ...]:
    larger = value + tf.bitwise.left_shift(one, bit)
    fewer = count(larger)
    enough = fewer >= k
    return bit - one, tf.where(enough, larger, value), tf.where(enough, fewer, reached)

  non_negative = count(zero)
  enough = non_negative >= k
  start = (
    tf.constant(order.dtype.size * 8 - 2, order.dtype),
    tf.where(enough, zero, order.dtype.min),
    tf.where(enough, non_negative, tf.size(order)),
  )
  _, value, reached = tf.while_loop(
    lambda bit, _, reached: (bit >= 0) & (reached > k), add_bit, start
  )
  return value, reached


# Hundreds of operations: in eager mode they would take most of the time of encoding.
_eager_search_threshold = tf.function(_search_threshold, reduce_retracing=True)


def _first(order: tf.Tensor, k: Any) -> tf.Tensor:
  """int32 [k], sorted: the positions of the k largest of `order`, int [n]; of equals the first.

  `k` is an int, or int64 [].
  """
  k = k if isinstance(k, int) else tf.cast(k, tf.int32)
  value, reached = _threshold(order, k)

  def without_last_equals() -> tf.Tensor:
    places = tf.where(tf.equal(order, value), tf.range(tf.size(order)), -1)
    first_dropped, _ = _threshold(places, reached - k)
    return (order >= value) & (places < first_dropped)

  chosen = tf.cond(reached > k, without_last_equals, lambda: order >= value)
  # There are exactly k; gathered, because XLA cannot know their number.
  return tf.cast(tf.gather(tf.where(chosen)[:, 0], tf.range(k)), tf.int32)


def _magnitudes(vector: tf.Tensor) -> tf.Tensor:
  """Integers, [n], in the order of |vector|: the bits of the floats without the sign bit."""
  wide = structures.widened(vector)
  return tf.bitcast(tf.abs(wide), tf.int64 if wide.dtype == tf.float64 else tf.int32)


def layout(blocks: list[list[Any]]) -> tuple[list[list[Any]], list[list[tf.TensorSpec]]]:
  """The sizes and specs of the tensors, or specs, of each block."""
  return (
    [[structures.size(x) for x in block] for block in blocks],
    [[tf.TensorSpec(x.shape, x.dtype) for x in block] for block in blocks],
  )


@dataclasses.dataclass(frozen=True)
class _Sparsifier(codec.Codec):
  """The base of `TopK` and `RandomK`.

  amount: how much of each block is sent: a fraction, float in (0, 1], but at least one element; or
    the count of elements, int.
  values: a codec without memory for the elements that are sent.
  granularity: `'tensor'` sends `amount` of each tensor, `'model'` of all tensors together.
  """

  amount: float | int = 0.1
  values: codec.Codec = dataclasses.field(default_factory=identity.Identity)
  granularity: str = 'tensor'

  def __post_init__(self) -> None:
    check_amount(self.amount)
    codec.resolve_part(self, 'values')
    checks.check_one_of('granularity', self.granularity, codec.GRANULARITIES)
    traits = self.values.traits
    if traits.has_memory or traits.needs_model or traits.whole_client:
      raise ValueError(
        f'{self.values} cannot compress the values inside {self.name}: they belong to other '
        f'coordinates in each round, but it needs the same ones. Put it around {self.name}.'
      )

  @abc.abstractmethod
  def _choose(self, vector: tf.Tensor, k: Any, seed: tf.Tensor) -> tf.Tensor:
    """int32 [k], sorted: the indices of the elements to send."""

  def _kept_vector(self, vector: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    return tf.gather(vector, indices)

  def encode(
    self,
    memory: Any,
    value: Any,
    seed: tf.Tensor,
    reference: codec.Reference | None = None,
  ) -> codec.Encoded:
    del reference
    blocks = codec.blocks_of(codec.tensors_of(value), self.granularity)
    indices, vectors = [], []
    for i, block in enumerate(blocks):
      vector = _concatenated(block)
      k = kept(self.amount, structures.size(vector))
      indices.append(self._choose(vector, k, tf.random.experimental.stateless_fold_in(seed, i)))
      vectors.append(self._kept_vector(vector, indices[-1]))
    inner = self.values.encode((), vectors, seed)
    message = Sparse(indices, inner.message, seed, *layout(blocks))
    return codec.Encoded(message, memory, inner.measurements)

  def decode(self, memory: Any, message: Sparse) -> list[tf.Tensor]:
    del memory
    decoded = []
    vectors = self.values.decode((), message.values)
    for block in zip(message.indices, vectors, message.sizes, message.specs, strict=True):
      decoded += scattered(*block)
    return decoded

  def official_units(self, message: Sparse) -> tf.Tensor:
    return self.values.official_units(message.values)

  def _kept_specs(self, blocks: list[list[tf.TensorSpec]]) -> list[tf.TensorSpec]:
    return [
      tf.TensorSpec([kept(self.amount, structures.num_elements(block))], common_dtype(block))
      for block in blocks
    ]


@dataclasses.dataclass(frozen=True)
class TopK(_Sparsifier):
  """Sends the elements of the largest magnitude; of equal ones the first.

  Stich, Cordonnier, Jaggi: Sparsified SGD with Memory, 2018, https://arxiv.org/abs/1809.07599.
  On the wire: the index sets (see `index_sets`), then the values. Official units: the values
  without indices, as in LBGM's figures.

  >>> import numpy as np
  >>> import tensorflow as tf
  >>> from tff_lowrank import codecs
  >>> codec = codecs.TopK(0.25)
  >>> update = [np.array([3, -1, 0.5, 8], np.float32)]
  >>> encoded = codec.encode(codec.initial_memory(update), update, seed=tf.constant([0, 1]))
  >>> [x.numpy() for x in codec.decode((), encoded.message)]
  [array([0., 0., 0., 8.], dtype=float32)]
  >>> int(codec.message_bits(encoded.message))  # 32 of a float, and 3 of an index set.
  35
  >>> len(codec.pack(encoded.message))
  5
  """

  name: ClassVar[str] = 'top_k'

  @property
  def traits(self) -> codec.Traits:
    inner = self.values.traits
    return codec.Traits(
      contraction=inner.contraction,
      corrigible=inner.corrigible,
      variable_size=True,
      fixed_shape=inner.fixed_shape,
    )

  def _choose(self, vector: tf.Tensor, k: Any, seed: tf.Tensor) -> tf.Tensor:
    return _first(_magnitudes(vector), k)

  def message_price(self, message: Sparse) -> ledger.Price:
    return ledger.add(
      self.values.message_price(message.values),
      *(
        ledger.price(
          index_or_mask=index_sets.bits(sum(sizes), indices, structures.size(indices), known=True)
        )
        for indices, sizes in zip(message.indices, message.sizes, strict=True)
      ),
    )

  def write(self, writer: bit_stream.BitWriter, message: Sparse) -> None:
    for indices, sizes in zip(message.indices, message.sizes, strict=True):
      index_sets.write(writer, sum(sizes), np.asarray(indices), known=True)
    self.values.write(writer, message.values)

  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Sparse:
    blocks = codec.blocks_of(tf.nest.flatten(structures.specs(value_spec)), self.granularity)
    kept_specs = self._kept_specs(blocks)
    indices = [
      index_sets.read(reader, structures.num_elements(block), spec.shape[0])
      for block, spec in zip(blocks, kept_specs, strict=True)
    ]
    values = self.values.read(reader, kept_specs)
    return Sparse(indices, values, tf.zeros([2], tf.int32), *layout(blocks))


@dataclasses.dataclass(frozen=True)
class RandomK(_Sparsifier):
  """Sends randomly chosen elements, the same for every client of a round.

  rescale: whether to multiply what is sent by n / k, which makes it unbiased. Use false with error
    feedback.

  Konecny et al.: Federated Learning: Strategies for Improving Communication Efficiency, 2016,
  https://arxiv.org/abs/1610.05492 (random mask). On the wire: the seed, 64 bits, from which the
  server draws the same indices; then the values.
  """

  rescale: bool = True

  name: ClassVar[str] = 'random_k'

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.check_type('rescale', self.rescale, bool)

  @property
  def traits(self) -> codec.Traits:
    inner = self.values.traits
    return codec.Traits(
      linear=inner.linear,
      unbiased=self.rescale and inner.unbiased,
      contraction=not self.rescale and inner.contraction,
      corrigible=not self.rescale and inner.corrigible,
      variable_size=inner.variable_size,
      fixed_shape=inner.fixed_shape,
    )

  def _choose(self, vector: tf.Tensor, k: Any, seed: tf.Tensor) -> tf.Tensor:
    return self._draw(structures.size(vector), k, seed)

  def _draw(self, n: Any, k: Any, seed: tf.Tensor) -> tf.Tensor:
    order = tf.random.stateless_uniform(tf.reshape(n, [1]), seed, None, None, tf.int32)
    return _first(order, k)

  def _kept_vector(self, vector: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    values = tf.gather(vector, indices)
    if not self.rescale:
      return values
    factor = tf.cast(structures.size(vector), tf.float64) / structures.divisor(indices)
    return values * tf.cast(factor, values.dtype)

  def message_price(self, message: Sparse) -> ledger.Price:
    seed = ledger.price(scalar=ledger.SEED_BITS)
    return ledger.add(seed, self.values.message_price(message.values))

  def write(self, writer: bit_stream.BitWriter, message: Sparse) -> None:
    writer.write_array(np.asarray(message.seed, np.int32))
    self.values.write(writer, message.values)

  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Sparse:
    seed = tf.constant(reader.read_array((2,), np.int32))
    blocks = codec.blocks_of(tf.nest.flatten(structures.specs(value_spec)), self.granularity)
    kept_specs = self._kept_specs(blocks)
    indices = []
    for i, (block, spec) in enumerate(zip(blocks, kept_specs, strict=True)):
      block_seed = tf.random.experimental.stateless_fold_in(seed, i)
      indices.append(self._draw(structures.num_elements(block), spec.shape[0], block_seed))
    return Sparse(indices, self.values.read(reader, kept_specs), seed, *layout(blocks))
