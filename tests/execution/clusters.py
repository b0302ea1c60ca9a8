"""Ray clusters for tests, which skip where Ray is not installed."""

import contextlib
import importlib.util
import os
import pathlib
import subprocess
import sys
import time

import psutil
import pytest

needs_ray = [
  pytest.mark.slow,
  pytest.mark.skipif(
    importlib.util.find_spec('ray') is None, reason='needs Ray, which the extra `ray` installs'
  ),
]
ROOT = pathlib.Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def of_nodes(*num_cpus):
  """A cluster of a head without room for workers, and a node for each number of cores."""
  from ray import cluster_utils

  cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=dict(num_cpus=0))
  try:
    for count in num_cpus:
      cluster.add_node(num_cpus=count)
    cluster.wait_for_nodes()
    yield cluster
  finally:
    cluster.shutdown()


def end_node_of(cluster, worker):
  """Ends the node of a worker, with SIGKILL."""
  (node,) = [n for n in cluster.worker_nodes if n.node_id == worker.node]
  cluster.remove_node(node, allow_graceful=False)


def wait_until(condition, seconds=90):
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, 'it did not come about'
    time.sleep(0.2)


def wait_for_workers(context, count):
  def is_there():
    context.replace_lost_workers()
    return len(context.workers) == count

  wait_until(is_there)


def start_program(source):
  """Starts a Python program in a process of its own; its output is a pipe."""
  path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get('PYTHONPATH'))))
  return subprocess.Popen(
    [sys.executable, '-c', source],
    cwd=ROOT,
    env=os.environ | dict(PYTHONPATH=path, TF_CPP_MIN_LOG_LEVEL='3'),
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def of_ray(pids):
  """The processes with these ids that still run."""
  return [pid for pid in pids if psutil.pid_exists(pid) and
          psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]  # fmt: skip
