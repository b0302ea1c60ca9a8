"""What a codec is: a frozen record of settings with pure functions over tensors."""

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
  """The groups of tensors that are treated together: each alone, or all as one."""
  return [[x] for x in tensors] if granularity == 'tensor' else [list(tensors)]


def tensors_of(value: Any) -> list[tf.Tensor]:
  """The tensors of a value, flattened; raises TypeError unless all are floating-point."""
  tensors = [tf.convert_to_tensor(x) for x in tf.nest.flatten(value)]
  for x in tensors:
    if not x.dtype.is_floating:
      raise TypeError(f'A codec takes tensors of floats, found {x.dtype.name} {list(x.shape)}.')
  return tensors


@dataclasses.dataclass(frozen=True)
class Traits:
  """What a codec promises, and what it needs. Stacks are judged by it when they are built.

  linear: decode(encode(a)) + decode(encode(b)) = decode(encode(a + b)) for one seed, so that
    messages can be added before they are decoded, as secure aggregation does.
  unbiased: the mean of the decoded value over seeds is the value.
  contraction: |x - decoded| <= |x| for every x (the Euclidean norm over all tensors).
  corrigible: error feedback makes its errors good; true of contractions, and of look-back over
    one, whose error is within the threshold of one.
  has_memory: a client must remember something between its messages.
  variable_size: the length of a message depends on the value.
  individual: the server must tell clients apart, to keep what each of them sent.
  needs_model: `encode` reads `reference.model`.
  needs_last_update: `encode` reads `reference.last_update`.
  whole_client: it decides whether the client takes part at all, so nothing can be around it.
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
  """What a client knows of the model besides its update, as far as the codec needs it.

  model: the weights that the client received, as the value's tensors.
  last_update: the server's last aggregate, as the value's tensors; zeros before there is one.
  """

  model: list[tf.Tensor] | None = None
  last_update: list[tf.Tensor] | None = None


class Encoded(NamedTuple):
  """What `Codec.encode` returns.

  message: tensors of static shape, the decisions beside the numbers, and Python values that
    both sides know.
  memory: what the client keeps for its next message, structured as the memory given.
  measurements: name -> (total, count), two tensors that broadcast; the mean of many clients is
    the sum of their totals over the sum of their counts. Not sent.
  takes_part: bool []; if false the client counts for nothing in this round's mean.
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
  `tf.nest.flatten` order. The client runs `encode` and keeps the new memory; the server runs
  `decode` with its mirror of the memory that the client had before the message, and `follow`
  to keep the mirror. What both sides remember is always the decoded message, so that what
  `decode` reads from them is equal to the bit.

  `pack` gives the real wire form. A round does not pack: it works on tensors, and
  `message_price` says what crossed the wire; the two are proved equal by tests.

  `str(codec)` is the text that `codecs.parse` reads, with `name` as the codec's name.
  """

  name: ClassVar[str]
  # A codec is a dataclass.
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
    """This codec and those that it is built of, outermost first."""
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
    """The memory of a client that never sent, for values of `value_spec` (`tf.TensorSpec`s).

    `()` when stateless.
    """
    del value_spec
    return ()

  def map_memory(self, fn: Callable[..., Any], *memories: Any) -> Any:
    """`fn(i, *parts)` for all that memories hold with the shape of the value's tensor i.

    `parts` are the same place in each of `memories`. All else is the last one's.
    """
    del fn
    return memories[-1]

  @abc.abstractmethod
  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: Reference | None = None
  ) -> Encoded:
    """Encodes `value` at the client.

    Args:
      memory: The client's.
      value: A structure of float tensors.
      seed: int32 [2], decides all that is random. It may be the same for many clients: a codec
        that needs noise of its own derives it from the seed and the value.
      reference: What the traits ask for.

    Raises:
      TypeError: If a tensor is not of floats.
    """

  @abc.abstractmethod
  def decode(self, memory: Any, message: Any) -> list[tf.Tensor]:
    """The tensors that the server reconstructs. `memory` is the one before the message."""

  def follow(self, memory: Any, message: Any) -> Any:
    """The server's mirror of the memory after `message`.

    What `decode` does not read stays as it is: the server cannot know it.
    """
    del message
    return memory

  @abc.abstractmethod
  def message_price(self, message: Any) -> ledger.Price:
    """The price of `message`: bits by kind."""

  @abc.abstractmethod
  def official_units(self, message: Any) -> tf.Tensor:
    """int64 []: the size of `message` as the papers of its method count it."""

  @abc.abstractmethod
  def write(self, writer: bit_stream.BitWriter, message: Any) -> None:
    """Appends the wire form of `message`, with numpy or eager tensors, to `writer`."""

  @abc.abstractmethod
  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> Any:
    """The message that `write` wrote for a value of `value_spec`, up to what is not sent.

    `memory` is that of `decode`. Codecs that do not need it for the message's form take None.
    """

  def message_bits(self, message: Any) -> tf.Tensor:
    """int64 []: equal to `8 * len(pack(message))` up to the padding of the last byte."""
    return ledger.total(self.message_price(message))

  def pack(self, message: Any) -> bytes:
    """The wire form of `message`; the inverse of `unpack`."""
    writer = bit_stream.BitWriter()
    self.write(writer, message)
    return writer.to_bytes()

  def unpack(self, data: bytes, value_spec: Any, memory: Any = None) -> Any:
    """The message that `pack` packed, which `decode` reads as it reads the original.

    Shapes do not travel: both sides know the model. `memory` is that of `decode`; look-back at
    several vectors needs it. Raises ValueError if it does and there is none, or if `data` is too
    short or too long for `value_spec`.
    """
    reader = bit_stream.BitReader(data)
    message = self.read(reader, value_spec, memory)
    reader.finish()
    return message


class InnerMessages(Codec):
  """A codec that sends the messages of another, made of another value.

  inner: the other codec.
  kept: the name in the memory, an `OrderedDict`, of tensors like the value's, zeros at first; the
    inner codec's memory is its `inner`.
  """

  inner: Codec
  kept: ClassVar[str]

  def initial_memory(self, value_spec: Any) -> Any:
    return self.memory_of(
      [structures.zeros(spec) for spec in tf.nest.flatten(value_spec)],
      self.inner.initial_memory(value_spec),
    )

  def memory_of(self, kept: list[tf.Tensor], inner: Any) -> Any:
    """A memory made of its parts."""
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
  """The codec that is the `argument` of `outer`, of which the text is replaced by it.

  To be called where `outer` is made. Raises TypeError or ValueError if it is none.
  """
  from tff_lowrank.codecs import grammar  # Here, as it imports all codecs.

  part = grammar.resolve(getattr(outer, argument), argument)
  object.__setattr__(outer, argument, part)  # It is frozen.
  return part


def resolve_inner(outer: Codec) -> None:
  """As `resolve_part` for `outer.inner`; raises ValueError if that cannot be inside another."""
  inner = resolve_part(outer, 'inner')
  if inner.traits.whole_client:
    raise ValueError(
      f'{outer.name} cannot be around {inner.name}: {inner} decides whether the client takes part '
      f'at all. Put {inner.name} around {outer.name}.'
    )


def nothing(inner: Codec, value_spec: Any) -> Any:
  """A message of `inner` with the structure of any other, for what was not sent."""
  zeros = [structures.zeros(spec) for spec in tf.nest.flatten(value_spec)]
  memory = inner.initial_memory(value_spec)
  return inner.encode(memory, zeros, tf.zeros([2], tf.int32), Reference(zeros, zeros)).message
