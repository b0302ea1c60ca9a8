import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank.execution import hlo_types
from tff_lowrank.execution import native


@pytest.mark.parametrize(
  'array',
  [
    np.float32(2.5),
    np.arange(6, dtype=np.int64).reshape(2, 3) - 2**40,
    np.array([True, False]),
    np.array([0.5, -2], np.float16),
    np.array([[2**63]], np.uint64),
    np.array([-3, 4], np.int8),
    np.zeros([0, 2], np.float64),
  ],
)
def test_constants_are_read_as_they_are(array):
  traced, _ = (
    native.trace(lambda x: [x + tf.constant(array)], [tf.TensorSpec([], array.dtype)])
    if (array.dtype != bool)
    else native.trace(
      lambda x: [tf.logical_or(x, tf.constant(array))], [tf.TensorSpec([], tf.bool)]
    )
  )
  module = hlo_types.HloModuleProto.FromString(traced.hlo)
  constants = [
    hlo_types.literal(i.literal)
    for c in module.computations
    for i in c.instructions
    if i.opcode == 'constant'
  ]
  assert any(
    c.shape == np.shape(array) and c.dtype == array.dtype and np.array_equal(c, array)
    for c in constants
  )


def test_a_layout_says_which_axis_is_the_fastest():
  literal = hlo_types.xla_data_pb2.LiteralProto(s32s=[1, 2, 3, 4, 5, 6])
  literal.shape.element_type = hlo_types.xla_data_pb2.S32
  literal.shape.dimensions.extend([2, 3])
  literal.shape.layout.minor_to_major.extend([0, 1])
  np.testing.assert_array_equal(hlo_types.literal(literal), [[1, 3, 5], [2, 4, 6]])
