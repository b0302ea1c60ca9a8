import numpy as np
import tensorflow_federated as tff

from tests.execution import cases
from tff_lowrank import execution
from tff_lowrank.execution import plan


def plan_of(computation):
  return execution.create_local_context().plan(computation)


def test_a_mean_of_what_a_mean_decides_takes_two_stages():
  @tff.tensorflow.computation(np.float32, np.float32)
  def minus(x, y):
    return x - y

  @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
  def centred(x):
    mean = tff.federated_broadcast(tff.federated_mean(x))
    return tff.federated_mean(tff.federated_map(minus, (x, mean)))

  stages = [s for s in plan_of(centred).stages if s.aggregations]
  assert len(stages) == 2
  assert all(a.is_mergeable for stage in stages for a in stage.aggregations)
  assert all(a.merge is a.accumulate for stage in stages for a in stage.aggregations)
  assert not any(stage.keep for stage in stages)


def test_what_the_result_needs_of_clients_is_kept():
  double = tff.tensorflow.computation(lambda x: 2 * x, np.int32)
  computation = tff.federated_computation(
    lambda x: tff.federated_map(double, x), tff.FederatedType(np.int32, tff.CLIENTS)
  )
  (stage,) = [s for s in plan_of(computation).stages if s.clients]
  assert stage.keep


def test_an_aggregation_that_is_no_sum_keeps_the_order():
  @tff.tensorflow.computation(np.int32, np.int32)
  def append(total, x):
    return 10 * total + x

  @tff.tensorflow.computation(np.int32, np.int32)
  def merge(a, b):
    return a + b

  identity = tff.tensorflow.computation(lambda x: x, np.int32)

  @tff.federated_computation(tff.FederatedType(np.int32, tff.CLIENTS))
  def digits(x):
    zero = tff.tensorflow.computation(lambda: 0)()
    return tff.federated_aggregate(x, zero, append, merge, identity)

  assert not any(a.is_mergeable for s in plan_of(digits).stages for a in s.aggregations)
  with execution.create_local_context(max_clients_in_flight=3):
    assert digits([1, 2, 3, 4, 5]) == 12345


def test_a_loop_is_in_the_graphs_of_its_step():
  steps = [step for stage in plan_of(cases.sum_of_all).stages for step in stage.clients]
  steps += [a.value for stage in plan_of(cases.sum_of_all).stages for a in stage.aggregations]
  loops = [l for step in steps for g in step.graphs for level in g.loops for l in level]
  assert [loop.parameter for loop in loops] == [0]


def test_project():
  value = [plan.AtClients([1, 2]), [3, plan.AtClients([[4], [5]])]]
  assert plan.project(value, 1) == [2, [3, [5]]]
