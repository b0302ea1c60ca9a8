"""What the tests of codecs share: values to send, and the proof of a price."""

from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import tensorflow as tf

from tff_lowrank import structures

SEED = tf.constant([0, 1], tf.int32)

FLOAT32 = hnp.arrays(
  np.float32,
  hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
  # TensorFlow's kernels may take subnormal numbers for 0.
  elements=st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False),
)

# Lists of tensors as a model's: scalars, empty ones, zeros, huge and denormal numbers.
VALUES = st.lists(FLOAT32, min_size=1, max_size=4)


def assert_price_is_packed_length(codec, memory, value):
  """Packs a message of `codec`; returns (its message, its decoded tensors)."""
  message = codec.encode(memory, value, SEED).message
  data = codec.pack(message)
  bits = int(codec.message_bits(message))
  assert 0 <= 8 * len(data) - bits < 8
  decoded = codec.decode(memory, message)
  received = codec.decode(memory, codec.unpack(data, structures.specs(value), memory))
  for sent, got in zip(decoded, received, strict=True):
    np.testing.assert_array_equal(sent, got)
  return message, decoded
