import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tff_lowrank import execution
from tff_lowrank.execution import xla


def client_stage(computation):
  stages = execution.create_local_context().plan(computation).stages
  return next(s for s in stages if s.clients or any(a.value.graphs for a in s.aggregations))


def folded(element, step, zero):
  """The sum over clients of a data set folded by `step`."""

  @tff.tensorflow.computation(tff.SequenceType(element))
  def fold(data):
    return data.reduce(tf.constant(zero), step)

  return tff.federated_computation(
    lambda x: tff.federated_sum(tff.federated_map(fold, x)),
    tff.FederatedType(tff.SequenceType(element), tff.CLIENTS),
  )


@pytest.mark.parametrize(
  ['computation', 'reason'],
  [
    (folded(np.str_, lambda a, b: a + tf.strings.length(b), 0), 'strings'),
    (folded(np.float32, lambda a, b: a + b * tf.random.uniform([]), 0.0), 'RandomUniform'),
    (
      folded(
        tff.TensorType(np.float32, [1, 4, 4, 1]),
        lambda a, b: a + tf.reduce_sum(tf.nn.conv2d(b, tf.ones([2, 2, 1, 1]), 1, 'SAME')),
        0.0,
      ),
      'convolutions',
    ),
    (folded(np.float32, lambda a, b: a + b, 0.0), None),
  ],
)
def test_reasons_against(computation, reason):
  found = xla.reason_against(client_stage(computation), on_cpu=True)
  assert found is None if reason is None else reason in found


def test_no_loop_is_a_reason():
  double = tff.tensorflow.computation(lambda x: 2 * x, np.int32)
  computation = tff.federated_computation(
    lambda x: tff.federated_sum(tff.federated_map(double, x)),
    tff.FederatedType(np.int32, tff.CLIENTS),
  )
  assert 'no loop' in xla.reason_against(client_stage(computation), on_cpu=False)


def test_programs_do_not_multiply_with_the_lengths_of_clients(rng):
  with execution.create_local_context(compile='xla', max_clients_in_flight=1) as context:
    for _ in range(30):
      lengths = rng.integers(1, 60, 12)
      data = [tf.data.Dataset.range(n) for n in lengths]
      assert cases.sum_of_all(data) == sum(n * (n - 1) // 2 for n in lengths)
    stage = client_stage(cases.sum_of_all)
    stage = next(s for s in context.plan(cases.sum_of_all).stages if s.aggregations)
    programs, _ = context.runner.engine(stage, context.runner.devices[0])
  assert programs.failure is None
  assert 1 <= programs.num_programs <= 6
