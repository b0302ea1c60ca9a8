"""The base class of codecs: a frozen dataclass of settings, with pure functions of tensors."""

import abc
import collections
from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, ClassVar, NamedTuple

import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream

GRANULARITIES = ('tensor', 'model')


def blocks_of(tensors: list[Any], granularity: str) -> list[list[Any]]:
  """The groups of tensors that are compressed together: each tensor alone, or all of them."""
  return [[x] for x in tensors] if granularity == 'tensor' else [list(tensors)]


def tensors_of(value: Any) -> list[tf.Tensor]:
  """The tensors of a value, flattened. Raises TypeError if one is not floating-point."""
  tensors = [tf.convert_to_tensor(x) for x in tf.nest.flatten(value)]
  for x in tensors:
    if not x.dtype.is_floating:
      raise TypeError(f'A codec takes tensors of floats, found {x.dtype.name} {list(x.shape)}.')
  return tensors


@dataclasses.dataclass(frozen=True)
class Traits:
  """What a codec promises and needs. Codecs that do not fit together are refused by their traits.

  linear: decode(encode(a)) + decode(encode(b)) = decode(encode(a + b)) for one seed, so that
    messages can be added before they are decoded, as secure aggregation does.
  unbiased: the mean of the decoded value over seeds is the value.
  contraction: |x - decoded| <= |x| for every x (the Euclidean norm over all tensors).
  corrigible: error feedback can correct its errors. True of contractions, and of look-back around
    a contraction, which adds an error of at most its threshold.
  has_memory: a client must remember something from one message to the next.
  variable_size: the length of a message depends on the value.
  individual: the server must know which client sent a message, to remember it for that client.
  needs_model: `encode` reads `reference.model`.
  needs_last_update: `encode` reads `reference.last_update`.
  whole_client: it decides whether the client takes part at all, so no other codec can wrap it.
  fixed_shape: it needs tensors of the same static shape in every round.
  """

  linear: bool = False
  unbiased: bool = False
  contraction: bool = False
  corrigible: bool = False
  has_memory: bool = False
  variable_size: bool = False
  individual: bool = False
  needs_model: bool = False
  needs_last_update: bool = False
  whole_client: bool = False
  fixed_shape: bool = False


class Reference(NamedTuple):
  """What a client knows about the model besides its update. Codecs that need it read it.

  model: the weights that the client received, as the value's tensors.
  last_update: the server's last aggregate, as the value's tensors; zeros in the first round.
  """

  model: list[tf.Tensor] | None = None
  last_update: list[tf.Tensor] | None = None


class Encoded(NamedTuple):
  """What `Codec.encode` returns.

  message: tensors of static shape (the numbers, and the decisions as flags), and Python values
    that both sides know.
  memory: what the client keeps for its next message, with the structure of the memory given.
  measurements: name -> (total, count), two tensors that broadcast. The mean over clients is the
    sum of their totals divided by the sum of their counts. Measurements are not sent.
  takes_part: bool []; if false, the client is excluded from this round's mean.
  """

  message: Any
  memory: Any
  measurements: Mapping[str, tuple[tf.Tensor, tf.Tensor]] = collections.OrderedDict()
  takes_part: tf.Tensor | bool = True


def _default(field: dataclasses.Field) -> Any:
  if field.default_factory is not dataclasses.MISSING:
    return field.default_factory()
  return field.default


class Codec(abc.ABC):
  """A compressor of updates, with or without a memory of earlier messages.

  A *value* is any structure of float tensors; `decode` returns its tensors as a list, in
  `tf.nest.flatten` order. The client runs `encode` and keeps the new memory. The server has a copy
  of the client's memory: it runs `decode` with the memory from before the message, and `follow` to
  update the copy. Both sides remember the decoded message, so the parts of the two memories that
  `decode` reads are equal in every bit.

  `pack` gives the bytes to send. A simulated round does not pack: it works on tensors, and
  `message_price` gives the number of bits. Tests check that the two agree.

  `str(codec)` is a text that `codecs.parse` reads, with `name` as the codec's name.
  """

  name: ClassVar[str]
  # Each subclass is a dataclass.
  __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

  @property
  @abc.abstractmethod
  def traits(self) -> Traits:
    """What the codec promises and needs."""

  @property
  def has_memory(self) -> bool:
    """Whether a client must remember anything between its messages."""
    return self.traits.has_memory

  @property
  def parts(self) -> tuple['Codec', ...]:
    """This codec and the codecs inside it, the outermost first."""
    own = [getattr(self, field.name) for field in dataclasses.fields(self)]
    return (self, *(part for x in own if isinstance(x, Codec) for part in x.parts))

  def __str__(self) -> str:
    arguments = []
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if value != _default(field):
        arguments.append(f'{field.name}={value}')
    return f'{self.name}({", ".join(arguments)})' if arguments else self.name

  def initial_memory(self, value_spec: Any) -> Any:
    """The memory of a client that has not sent anything yet; `()` for a codec without memory.

    `value_spec` has the structure of a value, with a `tf.TensorSpec` for each tensor.
    """
    del value_spec
    return ()

  def map_memory(self, fn: Callable[..., Any], *memories: Any) -> Any:
    """Applies `fn` to the tensors in memories that have the shape of a tensor of the value.

    The result has `fn(i, *parts)` where the memories hold a tensor like the value's tensor i;
    `parts` are those tensors, one from each memory. The rest is taken from the last memory.
    """
    del fn
    return memories[-1]

  @abc.abstractmethod
  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: Reference | None = None
  ) -> Encoded:
    """Encodes `value` at the client.

    Args:
      memory: The client's memory.
      value: A structure of float tensors.
      seed: int32 [2], the only source of randomness. Many clients may have the same seed: a codec
        whose noise must differ between clients derives it from the seed and the value.
      reference: What `traits` says that the codec needs.

    Raises:
      TypeError: If a tensor is not floating-point.
    """

  @abc.abstractmethod
  def decode(self, memory: Any, message: Any) -> list[tf.Tensor]:
    """The tensors that the server reconstructs. `memory` is from before the message."""

  def follow(self, memory: Any, message: Any) -> Any:
    """The server's copy of the client's memory, after `message`.

    Parts that `decode` does not read stay as they are: the server cannot know them.
    """
    del message
    return memory

  @abc.abstractmethod
  def message_price(self, message: Any) -> ledger.Price:
    """The size of `message`, in bits of each kind."""

  @abc.abstractmethod
  def official_units(self, message: Any) -> tf.Tensor:
    """int64 []: the size of `message` as the papers of its method count it."""

  @abc.abstractmethod
  def write(self, writer: bit_stream.BitWriter, message: Any) -> None:
    """Appends `message`, of NumPy arrays or eager tensors, to `writer`."""

  @abc.abstractmethod
  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Any:
    """The message that `write` wrote for a value of `value_spec`. What is not sent may differ.

    `memory` is as in `decode`; None if the codec does not need it to know the message's format.
    """

  def message_bits(self, message: Any) -> tf.Tensor:
    """int64 []: the size of `message`: `8 * len(pack(message))` without the last byte's padding."""
    return ledger.total(self.message_price(message))

  def pack(self, message: Any) -> bytes:
    """`message` as bytes; the inverse of `unpack`."""
    writer = bit_stream.BitWriter()
    self.write(writer, message)
    return writer.to_bytes()

  def unpack(self, data: bytes, value_spec: Any, memory: Any = None) -> Any:
    """The message that `pack` packed. `decode` gives the same for it as for the original.

    Shapes are not sent, since both sides know the model. `memory` is as in `decode`; only
    look-back with several vectors needs it. Raises ValueError if it is needed and missing, or if
    `data` is too short or too long for `value_spec`.
    """
    reader = bit_stream.BitReader(data)
    message = self.read(reader, value_spec, memory)
    reader.finish()
    return message


class InnerMessages(Codec):
  """A codec that gives a changed value to an inner codec, and sends the inner codec's message.

  inner: the inner codec.
  kept: a name. The memory is an `OrderedDict` with tensors like the value's, at first zeros, under
    this name, and the inner codec's memory under `inner`.
  """

  inner: Codec
  kept: ClassVar[str]

  def initial_memory(self, value_spec: Any) -> Any:
    return self.memory_of(
      [structures.zeros(spec) for spec in tf.nest.flatten(value_spec)],
      self.inner.initial_memory(value_spec),
    )

  def memory_of(self, kept: list[tf.Tensor], inner: Any) -> Any:
    """A memory, from its parts."""
    return collections.OrderedDict([(self.kept, kept), ('inner', inner)])

  def map_memory(self, fn: Callable[..., Any], *memories: Any) -> Any:
    kept = zip(*(memory[self.kept] for memory in memories), strict=True)
    return self.memory_of(
      [fn(i, *parts) for i, parts in enumerate(kept)],
      self.inner.map_memory(fn, *(memory['inner'] for memory in memories)),
    )

  def message_price(self, message: Any) -> ledger.Price:
    return self.inner.message_price(message)

  def official_units(self, message: Any) -> tf.Tensor:
    return self.inner.official_units(message)

  def write(self, writer: bit_stream.BitWriter, message: Any) -> None:
    self.inner.write(writer, message)

  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Any:
    return self.inner.read(reader, value_spec, memory and memory['inner'])


def resolve_part(outer: Codec, argument: str) -> Codec:
  """The codec in the field `argument` of `outer`. A text there is parsed and replaced.

  Called in `__post_init__` of `outer`. Raises TypeError or ValueError if the field is no codec.
  """
  from tff_lowrank.codecs import grammar  # Not at the top: it imports all codecs.

  part = grammar.resolve(getattr(outer, argument), argument)
  object.__setattr__(outer, argument, part)  # `outer` is frozen.
  return part


def resolve_inner(outer: Codec) -> None:
  """As `resolve_part` for `outer.inner`. Raises ValueError if no codec can wrap that one."""
  inner = resolve_part(outer, 'inner')
  if inner.traits.whole_client:
    raise ValueError(
      f'{outer.name} cannot be around {inner.name}: {inner} decides whether the client takes part '
      f'at all. Put {inner.name} around {outer.name}.'
    )


def nothing(inner: Codec, value_spec: Any) -> Any:
  """A message of `inner` in place of one that was not sent, with the same structure."""
  zeros = [structures.zeros(spec) for spec in tf.nest.flatten(value_spec)]
  memory = inner.initial_memory(value_spec)
  return inner.encode(memory, zeros, tf.zeros([2], tf.int32), Reference(zeros, zeros)).message
