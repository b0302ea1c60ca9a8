"""Values that stay on a cluster of two nodes."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import clusters
from tff_lowrank import execution
from tff_lowrank.execution import stored

pytestmark = clusters.needs_ray

_MEMORY = tff.TensorType(np.float32, (stored.MIN_BYTES,))


@tff.tensorflow.computation(_MEMORY, np.float32)
def grow(memory, value):
  return memory + value


@tff.federated_computation(
  tff.FederatedType(_MEMORY, tff.CLIENTS), tff.FederatedType(np.float32, tff.CLIENTS)
)
def grow_all(memory, values):
  return tff.federated_map(grow, (memory, values))


@tff.tensorflow.computation
def nothing():
  return tf.zeros(_MEMORY.shape)


def firsts(memory):
  return [float(np.asarray(m)[0]) for m in memory]


def test_values_survive_a_node_and_are_copied_again():
  count = 6
  ones = [np.float32(1 + k) for k in range(count)]
  with (
    clusters.of_nodes(1, 1) as cluster,
    execution.create_ray_context(cluster.address) as context,
    stored.client_values_stay(),
  ):
    memory = grow_all([nothing()] * count, ones)
    values = [m.value for m in memory]
    nodes = {w.node for w in context.workers}
    assert all({node for _, node in value.copies} == nodes for value in values)

    # One node goes, and a new one comes: what was on both is copied to that.
    clusters.end_node_of(cluster, context.workers[0])
    cluster.add_node(num_cpus=1)
    grow_all([nothing()] * count, ones)  # By which the loss is noticed.
    clusters.wait_for_workers(context, 2)
    grow_all([nothing()] * count, ones)
    new = {w.node for w in context.workers}
    assert len(new) == 2 and new != nodes
    assert all({node for _, node in value.copies} == new for value in values)
    assert context.losses == 1

    # So the next loss is no loss of numbers, either.
    survivor = next(w for w in context.workers if w.node in nodes)
    clusters.end_node_of(cluster, survivor)
    memory = grow_all(memory, ones)
    assert firsts(memory) == [2 * (1 + k) for k in range(count)]


def test_values_that_are_lost_with_all_nodes_are_named():
  with (
    clusters.of_nodes(1) as cluster,
    execution.create_ray_context(cluster.address) as context,
    stored.client_values_stay(),
  ):
    memory = grow_all([nothing()] * 3, [np.float32(1)] * 3)
    clusters.end_node_of(cluster, context.workers[0])
    cluster.add_node(num_cpus=1)
    with pytest.raises(stored.LostError, match='lost: all nodes that had a copy'):
      grow_all(memory, [np.float32(1)] * 3)
    with pytest.raises(stored.LostError, match='Resume from the last checkpoint'):
      firsts(memory)
    # The context goes on.
    assert firsts(grow_all([nothing()] * 3, [np.float32(4)] * 3)) == [4, 4, 4]


def test_traffic_counts_arrays():
  with execution.create_ray_context(num_workers=1) as context:
    values = [np.float32(1)] * 2
    found = grow_all([nothing()] * 2, values)
    size = 4 * stored.MIN_BYTES
    assert context.traffic.sent == size + 2 * 4  # The same array for both, and two numbers.
    assert context.traffic.received == 2 * size
    assert context.traffic.blocks == 2 and firsts(found) == [1, 1]
