"""What a codec is: a frozen record of settings with pure functions over tensors."""

import abc
import collections
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank.codecs import bit_stream


class Encoded(NamedTuple):
  """What `Codec.encode` returns.

  message: structure of tensors of static shape; dense, with the decisions beside the numbers.
  memory: what the client keeps for its next message, structured as the memory given.
  measurements: name -> (total, count), two tensors that broadcast; the mean of many clients is
    the sum of their totals over the sum of their counts. Not sent.
  """

  message: Any
  memory: Any
  measurements: Mapping[str, tuple[tf.Tensor, tf.Tensor]] = collections.OrderedDict()


class Codec(abc.ABC):
  """A compressor of updates, with or without a memory of earlier messages.

  A *value* is any structure of float tensors; `decode` returns its tensors as a list, in
  `tf.nest.flatten` order. The client runs `encode` and keeps the new memory; the server runs
  `decode` with its mirror of the memory that the client had before the message. What both
  sides remember is always the decoded message, so the mirrors stay equal to the bit.

  `pack` gives the real wire form. A round does not pack: it works on dense tensors, and
  `message_price` says what crossed the wire; the two are proved equal by tests.
  """

  @property
  @abc.abstractmethod
  def has_memory(self) -> bool:
    """Whether a client must remember anything between its messages."""

  @abc.abstractmethod
  def initial_memory(self, value_spec: Any) -> Any:
    """The memory of a client that never sent, for values of `value_spec` (`tf.TensorSpec`s).

    `()` when stateless.
    """

  @abc.abstractmethod
  def encode(self, memory: Any, value: Any, seed: tf.Tensor) -> Encoded:
    """Encodes `value` at the client. `seed`, int32 [2], decides all that is random."""

  @abc.abstractmethod
  def decode(self, memory: Any, message: Any) -> list[tf.Tensor]:
    """The tensors that the server reconstructs. `memory` is the one before the message."""

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
  def read(self, reader: bit_stream.BitReader, value_spec: Any) -> Any:
    """The message that `write` wrote for a value of `value_spec`, up to what is not sent."""

  def message_bits(self, message: Any) -> tf.Tensor:
    """int64 []: equal to `8 * len(pack(message))` up to the padding of the last byte."""
    return ledger.total(self.message_price(message))

  def pack(self, message: Any) -> bytes:
    """The wire form of `message`; the inverse of `unpack`."""
    writer = bit_stream.BitWriter()
    self.write(writer, message)
    return writer.to_bytes()

  def unpack(self, data: bytes, value_spec: Any) -> Any:
    """The message that `pack` packed, which `decode` reads as it reads the original.

    Shapes do not travel: both sides know the model. Raises ValueError if `data` is too short
    or too long for `value_spec`.
    """
    reader = bit_stream.BitReader(data)
    message = self.read(reader, value_spec)
    reader.finish()
    return message
