"""SignSGD: one bit per number, its sign."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.codecs import bit_stream
from tff_lowrank.codecs import codec
from tff_lowrank.codecs import per_tensor


class Signs(NamedTuple):
  """A tensor's message. positive: bool, the tensor's shape; scale: float32 []."""

  positive: tf.Tensor
  scale: tf.Tensor
  dtype: tf.DType


@dataclasses.dataclass(frozen=True)
class SignSGD(per_tensor.PerTensor):
  """Sends signs, with sign(0) = +1. The server takes the weighted mean of signs.

  scaled: whether to send the mean magnitude of each tensor as well, in 32 bits. It decodes to signs
    times this magnitude, as error feedback needs.

  Unscaled, as in LBGM's published code, without error feedback or majority vote: Bernstein et al.,
  2018, https://arxiv.org/abs/1802.04434. Scaled: Karimireddy et al., 2019,
  https://arxiv.org/abs/1901.09847. Official units: bits.
  """

  scaled: bool = False

  name: ClassVar[str] = 'sign_sgd'

  def __post_init__(self) -> None:
    checks.check_type('scaled', self.scaled, bool)

  @property
  def traits(self) -> codec.Traits:
    return codec.Traits(contraction=self.scaled, corrigible=self.scaled)

  def encode_tensor(
    self, memory: Any, x: tf.Tensor, seed: tf.Tensor, model: tf.Tensor | None
  ) -> tuple[Signs, Any]:
    # The mean in float64: a float32 sum can overflow, and a mean rounded up is no contraction.
    total = tf.reduce_sum(tf.abs(tf.cast(x, tf.float64)))
    mean = tf.cast(total / structures.divisor(x), tf.float32)
    return Signs(x >= 0, mean if self.scaled else tf.constant(1.0), x.dtype), memory

  def decode_tensor(self, message: Signs) -> tf.Tensor:
    scale = tf.cast(message.scale, message.dtype)
    return tf.where(message.positive, scale, -scale)

  def tensor_price(self, message: Signs) -> ledger.Price:
    scalar = ledger.SCALAR_BITS if self.scaled else 0
    return ledger.price(payload=structures.size(message.positive), scalar=scalar)

  def tensor_units(self, message: Signs) -> tf.Tensor:
    return ledger.total(self.tensor_price(message))

  def write_tensor(self, writer: bit_stream.BitWriter, message: Signs) -> None:
    writer.write_bits(np.asarray(message.positive))
    if self.scaled:
      writer.write_array(np.asarray(message.scale, np.float32))

  def read_tensor(self, reader: bit_stream.BitReader, spec: tf.TensorSpec) -> Signs:
    positive = reader.read_bits(structures.size(spec)).astype(bool).reshape(spec.shape)
    scale = reader.read_array((), np.float32) if self.scaled else np.float32(1)
    return Signs(positive, scale, spec.dtype)
