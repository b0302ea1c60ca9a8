import pytest

from tests.execution import cases
from tests.execution import clusters
from tff_lowrank import execution
from tff_lowrank.execution import ray_pool

pytestmark = clusters.needs_ray


def test_a_worker_of_other_versions_is_refused(monkeypatch):
  import ray

  from tff_lowrank.execution import ray_worker

  here = ray_worker.versions() | {'tensorflow': '9.9'}
  monkeypatch.setattr(ray_worker, 'versions', lambda: here)
  expected = 'is refused: it has tensorflow 2.14.* instead of 9.9. All nodes must have the same'
  with pytest.raises(RuntimeError, match=expected):
    execution.create_ray_context(num_workers=1)
  assert not ray.is_initialized()


def test_a_round_ends_with_a_sentence_if_nothing_is_left():
  with clusters.of_nodes(1) as cluster:
    with execution.create_ray_context(cluster.address) as context:
      assert cases.sum_of_all([[1], [2]]) == 3
      (node,) = cluster.worker_nodes
      cluster.remove_node(node, allow_graceful=False)
      with pytest.raises(ray_pool.WorkersLostError, match='No worker is left.*The last one'):
        cases.sum_of_all([[1], [2]])
      # A node that comes later takes over.
      cluster.add_node(num_cpus=1)
      clusters.wait_for_workers(context, 1)
      assert cases.sum_of_all([[1], [2]]) == 3
