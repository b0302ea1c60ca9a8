import threading

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from benchmarks import growth
from tff_lowrank import execution
from tff_lowrank import learning
from tff_lowrank.execution import ahead
from tff_lowrank.execution import graph_defs


def is_running():
  return any(t.name == 'tff_lowrank_ahead' for t in threading.enumerate())


def client_mean(x):
  mean = tff.federated_mean(x)
  return tff.federated_map(tff.tensorflow.computation(lambda y: 2 * y, np.float32), mean)


def mean_of_floats():
  return tff.federated_computation(client_mean, tff.FederatedType(np.float32, tff.CLIENTS))


def test_functions_are_built_from_the_last_one_on(monkeypatch):
  order = []
  prepare = graph_defs.Lazy.prepare

  def note(self, arguments=None):
    order.append((threading.current_thread().name, self))
    prepare(self, arguments)

  monkeypatch.setattr(graph_defs.Lazy, 'prepare', note)
  context = execution.create_local_context()
  plan = context.plan(mean_of_floats())
  with ahead.preparing(plan, context.runner):
    while is_running():
      pass
  expected = [
    function
    for stage in plan.stages
    for step in (
      stage.server
      + stage.clients
      + [a.value for a in stage.aggregations]
      + [p for a in stage.aggregations for p in (a.zero, a.accumulate, a.merge, a.report)]
    )
    for graph in step.graphs
    for function in graph.functions
  ]
  assert len(expected) > 3
  assert [function for _, function in order] == expected[::-1]
  assert {name for name, _ in order} == {'tff_lowrank_ahead'}


def test_nothing_is_left_running():
  context = execution.create_local_context()
  with pytest.raises(KeyError), ahead.preparing(context.plan(mean_of_floats()), context.runner):
    raise KeyError
  assert not is_running()


def test_only_a_plan_that_has_not_run_is_prepared(monkeypatch):
  plans = []
  preparing = ahead.preparing
  monkeypatch.setattr(ahead, 'preparing', lambda p, r: plans.append(p) or preparing(p, r))
  mean = mean_of_floats()
  with execution.create_local_context():
    assert [mean([1.0, 2.0]) for _ in range(2)] == [3.0, 3.0]
  assert len(plans) == 1


def test_what_is_built_grows_no_faster_than_the_tensors(monkeypatch):
  built = []
  function = graph_defs.function

  def note(graph_def, *arguments):
    built[-1].append(sum(1 for _ in graph_defs.all_nodes(graph_def)))
    return function(graph_def, *arguments)

  monkeypatch.setattr(graph_defs, 'function', note)
  examples = (np.zeros([20, 10], np.float32), np.ones(20, np.float32))
  data = [tf.data.Dataset.from_tensor_slices(examples).batch(10)] * 5
  for num_tensors in (2, 4, 8):
    built.append([])
    process = learning.build_fed_avg(
      growth._model(growth.shape_of('tensors', num_tensors), data[0].element_spec),
      tff.learning.optimizers.build_sgdm(0.1),
    )
    with execution.create_local_context(max_clients_in_flight=2):
      process.next(process.initialize(), [process.initialize_client()] * 5, data)
  assert len({len(counts) for counts in built}) == 1  # As many functions, whatever the model.
  few, some, many = map(sum, built)
  assert many - some == 2 * (some - few)
  assert (many - some) / 4 < 80  # 237 with the functions that are not called.
