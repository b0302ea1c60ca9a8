"""Sends every number as it is."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec


@dataclasses.dataclass(frozen=True)
class Identity(codec.Codec):
  """No compression, as in FedAvg: the message is the value. Official units: scalars."""

  name: ClassVar[str] = 'identity'

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(linear=True, unbiased=True, contraction=True, corrigible=True)

  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    del seed, reference
    return codec.Encoded(codec.tensors_of(value), memory)

  def decode(self, memory: Any, message: list[tf.Tensor]) -> list[tf.Tensor]:
    del memory
    return list(message)

  def message_price(self, message: list[tf.Tensor]) -> ledger.Price:
    return ledger.dense_price(message)

  def official_units(self, message: list[tf.Tensor]) -> tf.Tensor:
    return tf.cast(structures.num_elements(message), tf.int64)

  def write(self, writer: bit_stream.BitWriter, message: list[tf.Tensor]) -> None:
    for tensor in message:
      writer.write_array(structures.to_numpy(tensor))

  def read(
    self, reader: bit_stream.BitReader, value_spec: Any, memory: Any = None
  ) -> list[np.ndarray]:
    del memory
    return [
      reader.read_array(tuple(spec.shape), spec.dtype.as_numpy_dtype)
      for spec in tf.nest.flatten(value_spec)
    ]
