import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.execution import graphs
from tff_lowrank.execution import loops
from tff_lowrank.execution import sequences


def fold(zero_size):
  @tff.tensorflow.computation(tff.SequenceType(np.float32))
  def computation(data):
    return data.reduce(tf.zeros([zero_size]), lambda a, b: 2 * a + b)

  return graphs.GraphFunction(computation.to_building_block().proto.tensorflow)


@pytest.mark.parametrize('size', [1, 1 << 19])
def test_small_and_large_states_take_the_same_steps(size):
  data = tf.data.Dataset.from_tensor_slices(np.array([1, 2, 3], np.float32))
  source = sequences.Dataset(data, tff.TensorType(np.float32))
  (result,) = fold(size)([source], loops.Engine())
  np.testing.assert_array_equal(result, np.full([size], 11.0))
