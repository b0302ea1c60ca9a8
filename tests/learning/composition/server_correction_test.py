import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import aggregators
from tff_lowrank.learning.composition import server_correction

WEIGHTS = tff.learning.models.ModelWeights(
  (tf.TensorSpec([2], tf.float32), tf.TensorSpec([], tf.float32)), ()
)
WEIGHTS_TYPE = tff.types.tensorflow_to_type(WEIGHTS)


def test_counts_who_is_in_the_mean():
  inner = aggregators.lift(tff.aggregators.MeanFactory()).create(
    tff.TensorType(np.float32, [2]), tff.TensorType(np.float32)
  )
  process = server_correction.counting(inner)
  values = [np.float32([1, 2]), np.float32([3, 6]), np.float32([np.nan, 0]), np.float32([9, 9])]
  output = process.next(process.initialize(), [()] * 4, values, [1.0, 3.0, 1.0, 0.0])
  np.testing.assert_allclose(output.result.mean, [2.5, 5])
  assert output.result.num_accepted == 2
  assert [bool(r['accepted']) for r in output.reports] == [True, True, False, False]


@pytest.fixture
def finalizer():
  def advance(correction, mean, share):
    correction = tf.nest.map_structure(
      lambda c, m: c + tf.cast(share, m.dtype) * m, correction, tuple(mean)
    )
    return correction, tf.nest.map_structure(tf.add, tuple(mean), correction)

  return server_correction.build_finalizer(
    tff.learning.optimizers.build_sgdm(0.5), WEIGHTS_TYPE, WEIGHTS_TYPE.trainable, 4, advance
  )


def weights(a, b):
  return tff.learning.models.ModelWeights((np.float32(a), np.float32(b)), ())


def test_steps_on_what_advance_makes_of_the_mean(finalizer):
  state = finalizer.initialize()
  mean = (np.float32([4, 8]), np.float32(2))
  output = finalizer.next(state, weights([0, 0], 0), server_correction.Counted(mean, 1))
  # A quarter of the mean is remembered and added to it, of which half is subtracted.
  np.testing.assert_allclose(output.state['correction'][0], [1, 2])
  np.testing.assert_allclose(output.result.trainable[0], [-2.5, -5])
  output = finalizer.next(output.state, output.result, server_correction.Counted(mean, 2))
  np.testing.assert_allclose(output.state['correction'][1], 0.5 + 1)
  np.testing.assert_allclose(output.result.trainable[1], -1.25 - 1.75)


def test_rejected_update_changes_nothing(finalizer):
  start = finalizer.next(
    finalizer.initialize(),
    weights([0, 0], 0),
    server_correction.Counted((np.float32([4, 8]), np.float32(2)), 1),
  )
  bad = server_correction.Counted((np.float32([np.nan, 1]), np.float32(1)), 0)
  output = finalizer.next(start.state, start.result, bad)
  assert output.measurements['update_non_finite'] == 1
  for before, after in zip(
    tf.nest.flatten((start.state, start.result)),
    tf.nest.flatten((output.state, output.result)),
    strict=True,
  ):
    np.testing.assert_array_equal(before, after)
