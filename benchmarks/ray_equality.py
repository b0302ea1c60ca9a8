"""Whether runs on a Ray cluster are equal to the bit to runs in one process, whatever happens.

  python -m benchmarks.ray_equality --workers=1,2,4 --nodes=2 --kills=10 --json=DIR/equality.jsonl

Runs methods on the embedded digits, and on MNIST with --mnist_dir, on the local context, and
again on clusters with so many workers, and on one of two nodes. Then, with --kills, it ends a
worker or a node with SIGKILL at random moments, one in each of so many runs. Compared are the
metrics and the ledger of each round, and the server's and clients' state in the checkpoint.
It prints a line a run and ends with status 1 if one differs.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import csv
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
from typing import Any

# As the binaries have it: sums of TensorFlow can depend on the number of threads.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')

from absl import app
from absl import flags
import numpy as np
import pyarrow.parquet

from tff_lowrank import runs
from tff_lowrank.runs import contexts

_WORKERS = flags.DEFINE_list('workers', '1,2,4', 'Numbers of workers to run with.')
_NODES = flags.DEFINE_integer('nodes', 2, 'Nodes of another cluster, of a worker each; 0 is none.')
_KILLS = flags.DEFINE_integer('kills', 0, 'Runs in which a worker, and a node, are ended.')
_METHODS = flags.DEFINE_list('methods', None, 'Of those below; all by default.')
_MNIST_DIR = flags.DEFINE_string('mnist_dir', None, 'Where MNIST is, to run it as well.')
_SEED = flags.DEFINE_integer('seed', 0, 'Decides when what is ended.')
_JSON = flags.DEFINE_string('json', None, 'Where to append a line a run.')

_COMMON = dict(rounds=8, num_clients=12, clients_per_round=9, batch_size=16, eval_every=2)
_SETTINGS: dict[str, dict[str, Any]] = dict(
  fed_avg={},
  lbgm=dict(client_epochs=2),
  apf=dict(apf_check_every=2),
  pfedpara=dict(client_test_fraction=0.25),
  scaffold={},
)
_MNIST = dict(rounds=3, num_clients=12, clients_per_round=9, batch_size=20, client_max_elements=100)


def _run(task: str, method: str, folder: pathlib.Path, **context: Any) -> runs.Run:
  given = _COMMON | _SETTINGS[method]
  if task == 'mnist':
    given = given | _MNIST | dict(data_dir=_MNIST_DIR.value)
  return runs.train(task, method, folder, **given, **context)


def _facts(folder: pathlib.Path) -> dict[str, Any]:
  """All that a run gives, but for times."""
  with open(folder / 'metrics.csv') as file:
    rows = [{k: v for k, v in row.items() if 'seconds' not in k} for row in csv.DictReader(file)]
  last = max((folder / 'checkpoints').iterdir())
  return dict(
    metrics=rows,
    ledger=pyarrow.parquet.read_table(folder / 'ledger.parquet').to_pydict(),
    state=(last / 'state.safetensors').read_bytes(),
    clients=(last / 'clients').read_bytes(),
  )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
  return [name for name in a if a[name] != b[name]]


class _Report:
  """Prints a line a run, and keeps whether all were equal."""

  def __init__(self):
    self.is_equal = True

  def add(self, expected: Mapping[str, Any], folder: pathlib.Path, **about: Any) -> None:
    differing = _differing(expected, _facts(folder))
    self.is_equal &= not differing
    line = dict(about, equal=not differing, differing=differing)
    print(json.dumps(line), flush=True)
    if _JSON.value:
      with open(_JSON.value, 'a') as file:
        file.write(json.dumps(line) + '\n')


@contextlib.contextmanager
def _cluster(nodes: int) -> Iterator[Any]:
  """A cluster of processes on this machine: a head without workers, and nodes with one each."""
  from ray import cluster_utils

  cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=dict(num_cpus=0))
  try:
    for _ in range(nodes):
      cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
  finally:
    cluster.shutdown()


@contextlib.contextmanager
def _after(seconds: float, what: Callable[[], None]) -> Iterator[None]:
  """Calls `what` after a while, in a thread, and waits for that at the end."""
  thread = threading.Timer(seconds, what)
  thread.start()
  try:
    yield
  finally:
    thread.join()


def _wait_for_workers(context: Any, count: int) -> None:
  end = time.monotonic() + 120
  while len(context.workers) < count:
    context.replace_lost_workers()
    if time.monotonic() > end:
      raise TimeoutError(f'{len(context.workers)} of {count} workers are there.')
    time.sleep(0.5)


def main(argv: list[str]) -> None:
  del argv
  methods = _METHODS.value or list(_SETTINGS)
  tasks = ['digits'] + ['mnist'] * (_MNIST_DIR.value is not None)
  cases = [(task, method) for task in tasks for method in methods]
  report, rng = _Report(), np.random.default_rng(_SEED.value)
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    numbers = iter(range(10**6))
    new = lambda: root / str(next(numbers))  # noqa: E731
    expected = {case: _facts(_run(*case, new()).folder) for case in cases}

    for workers in map(int, _WORKERS.value):
      with contexts.shared():
        for task, method in cases:
          run = _run(task, method, new(), context='ray', ray_workers=workers)
          report.add(expected[task, method], run.folder, task=task, method=method, workers=workers)

    if _KILLS.value:
      with contexts.shared() as opened:
        seconds = {}
        for kill in range(_KILLS.value):
          task, method = cases[kill % len(cases)]
          where = dict(context='ray', ray_workers=2)
          if not opened or (task, method) not in seconds:  # How long it takes undisturbed.
            _run(task, method, new(), **where)
            start = time.monotonic()
            _run(task, method, new(), **where)
            seconds[task, method] = time.monotonic() - start
          (context,) = opened.values()
          _wait_for_workers(context, 2)
          victim = context.workers[int(rng.integers(2))]
          moment = float(rng.uniform(0.0, 0.8 * seconds[task, method]))
          before, start = context.losses, time.monotonic()
          with _after(moment, lambda pid=victim.pid: os.kill(pid, signal.SIGKILL)):
            run = _run(task, method, new(), **where)
          report.add(expected[task, method], run.folder, task=task, method=method, workers=2,
                     ended=f'worker {victim.number}', after_seconds=round(moment, 3),
                     noticed=context.losses > before,
                     seconds=round(time.monotonic() - start, 1))  # fmt: skip

    if _NODES.value:
      with _cluster(_NODES.value) as cluster, contexts.shared() as opened:
        where = dict(context='ray', ray_address=cluster.address, ray_workers=_NODES.value)
        seconds = {}
        for task, method in cases:
          _run(task, method, new(), **where)
          start = time.monotonic()
          run = _run(task, method, new(), **where)
          seconds[task, method] = time.monotonic() - start
          report.add(expected[task, method], run.folder, task=task, method=method,
                     nodes=_NODES.value)  # fmt: skip
        (context,) = opened.values()
        for kill in range(_KILLS.value):
          task, method = cases[kill % len(cases)]
          _wait_for_workers(context, _NODES.value)
          victim = list(cluster.worker_nodes)[int(rng.integers(len(cluster.worker_nodes)))]
          moment = float(rng.uniform(0.0, 0.8 * seconds[task, method]))
          before, start = context.losses, time.monotonic()
          with _after(moment, lambda v=victim: cluster.remove_node(v, allow_graceful=False)):
            run = _run(task, method, new(), **where)
          report.add(expected[task, method], run.folder, task=task, method=method,
                     nodes=_NODES.value, ended='node', after_seconds=round(moment, 3),
                     noticed=context.losses > before,
                     seconds=round(time.monotonic() - start, 1))  # fmt: skip
          cluster.add_node(num_cpus=1)
  sys.exit(0 if report.is_equal else 1)


if __name__ == '__main__':
  app.run(main)
