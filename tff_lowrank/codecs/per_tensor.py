"""Codecs that compress each tensor of a value by itself."""

import abc
from typing import Any

import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec


def private_seed(seed: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
  """int32 [2]: a seed from `seed` and the numbers in `x`, for noise that differs between clients.

  All clients have the same `seed`. Rounding noise from it alone would be the same for all of them,
  and would not average out.
  """
  bits = tf.bitcast(tf.cast(x, tf.float32), tf.int32)
  return tf.random.experimental.stateless_fold_in(seed, tf.reduce_sum(bits))


class PerTensor(codec.Codec):
  """A codec that is defined for one tensor. The message is a list with one entry for each tensor.

  Tensor i is encoded with a seed from `seed` and i. The memory, if there is any, is a list too.
  """

  def initial_tensor_memory(self, spec: tf.TensorSpec) -> Any:
    """The memory for one tensor, if `traits.has_memory`."""
    raise NotImplementedError

  @abc.abstractmethod
  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Any, Any]:
    """(message, new memory) of one tensor; `model` has its weights, if there is a reference."""

  @abc.abstractmethod
  def decode_tensor(self, message: Any) -> tf.Tensor:
    """The tensor that the server reconstructs."""

  @abc.abstractmethod
  def tensor_price(self, message: Any) -> ledger.Price:
    """The size of one tensor's message, in bits of each kind."""

  def tensor_units(self, message: Any) -> Any:
    """The size of one tensor's message in official units; by default, its bits divided by 32."""
    return ledger.total(self.tensor_price(message)) // 32

  @abc.abstractmethod
  def write_tensor(self, writer: bit_stream.BitWriter, message: Any) -> None:
    """Appends one tensor's message."""

  @abc.abstractmethod
  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Any:
    """Reads one tensor's message."""

  def initial_memory(self, value_spec: Any) -> Any:
    if not self.has_memory:
      return ()
    return [self.initial_tensor_memory(spec) for spec in tf.nest.flatten(value_spec)]

  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    tensors = codec.tensors_of(value)
    kept = memory or [()] * len(tensors)
    models = [None] * len(tensors)  # type: list[Any]  # For AutoGraph, a comment.
    if self.traits.needs_model and reference is not None and reference.model is not None:
      models = reference.model
    messages, new_memory = [], []
    for i, (m, x, model) in enumerate(zip(kept, tensors, models, strict=True)):
      tensor_seed = tf.random.experimental.stateless_fold_in(seed, i)
      message, after = self.encode_tensor(m, x, tensor_seed, model)
      messages.append(message)
      new_memory.append(after)
    return codec.Encoded(messages, new_memory if self.has_memory else ())

  def decode(self, memory: Any, message: list[Any]) -> list[tf.Tensor]:
    del memory
    return [self.decode_tensor(m) for m in message]

  def message_price(self, message: list[Any]) -> ledger.Price:
    return ledger.add(*(self.tensor_price(m) for m in message))

  def official_units(self, message: list[Any]) -> tf.Tensor:
    return tf.cast(sum(self.tensor_units(m) for m in message), tf.int64)

  def write(self, writer: bit_stream.BitWriter, message: list[Any]) -> None:
    for m in message:
      self.write_tensor(writer, m)

  def read(self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None) -> list[Any]:
    return [self.read_tensor(reader, spec) for spec in tf.nest.flatten(value_spec)]
