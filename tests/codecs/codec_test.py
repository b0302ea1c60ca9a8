import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank import ledger


class Signs(codecs.Codec):
  """The smallest codec: one bit a number."""

  name = 'signs'
  traits = codecs.Traits()

  def encode(self, memory, value, seed, reference=None):
    return codecs.Encoded([tf.sign(x) for x in value], memory)

  def decode(self, memory, message):
    return message

  def message_price(self, message):
    return ledger.price(payload=sum(tf.size(x) for x in message), flag=1)

  def official_units(self, message):
    return tf.constant(0, tf.int64)

  def write(self, writer, message):
    writer.write_bit(True)
    for bit in np.concatenate([np.ravel(x) > 0 for x in message]):
      writer.write_bit(bit)

  def read(self, reader, value_spec, memory=None):
    reader.read_bit()
    return [
      np.float32([1.0 if reader.read_bit() else -1.0 for _ in range(spec.shape[0])])
      for spec in value_spec
    ]


def test_pack_unpack_and_bits_come_from_the_parts():
  codec = Signs()
  message = codec.encode((), [tf.constant([2.0, -3.0]), tf.constant([-0.5])], None).message
  assert int(codec.message_bits(message)) == 4
  # 1 (flag), 1, 0, 0, and four bits of padding.
  assert codec.pack(message) == bytes([0b11000000])
  unpacked = codec.unpack(codec.pack(message), [tf.TensorSpec([2]), tf.TensorSpec([1])])
  for sent, got in zip(message, unpacked, strict=True):
    np.testing.assert_array_equal(sent, got)
  with pytest.raises(ValueError, match='bits more'):
    codec.unpack(bytes([0b11000000, 0]), [tf.TensorSpec([2]), tf.TensorSpec([1])])


def test_encoded_has_no_measurements_unless_given():
  assert dict(codecs.Encoded(1, ()).measurements) == {}


def test_an_incomplete_codec_cannot_be_made():
  class Incomplete(codecs.Codec):
    pass

  with pytest.raises(TypeError, match='abstract'):
    Incomplete()
