"""Checks that runs on a Ray cluster are bit-identical to runs in one process, even with failures.

  python -m benchmarks.ray_equality --workers=1,2,4 --nodes=2 --kills=10 --json=DIR/equality.jsonl

Runs methods on the embedded digits, and on MNIST with --mnist_dir, in the local context, then on
clusters with --workers workers, and on a cluster with --nodes nodes. Then it kills a worker or a
node with SIGKILL at a random moment, once in each of --kills runs. Compares the metrics and the
ledger of each round, and the server's and clients' state in the checkpoint. Prints one line per
run; the exit status is 1 if one differs.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import csv
import json
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

# As in the commands: sums of TensorFlow can depend on the number of threads.
os.environ.setdefault('TF_NUM_INTRAOP_THREADS', '1')

from absl import app
from absl import flags
import numpy as np
import pyarrow.parquet

from tff_lowrank import runs
from tff_lowrank.runs import contexts

_WORKERS = flags.DEFINE_list('workers', '1,2,4', 'Numbers of workers of the clusters.')
_NODES = flags.DEFINE_integer(
  'nodes', 2, 'Nodes of another cluster, with one worker each; 0: no such cluster.'
)
_KILLS = flags.DEFINE_integer(
  'kills', 0, 'Runs in which a worker is killed, and runs in which a node is.'
)
_METHODS = flags.DEFINE_list('methods', None, 'Methods to run, of those below; all by default.')
_MNIST_DIR = flags.DEFINE_string(
  'mnist_dir', None, "Folder with MNIST's files, to run on MNIST as well."
)
_SEED = flags.DEFINE_integer('seed', 0, 'Seeds what is killed, and when.')
_JSON = flags.DEFINE_string('json', None, 'File to append one line per run to.')

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
  """All results of a run except times."""
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
  """Prints one line per run, and records whether all were equal."""

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
  """A cluster of processes on this machine: a head without workers, and nodes with one worker."""
  from ray import cluster_utils

  cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=dict(num_cpus=0))
  try:
    for _ in range(nodes):
      cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    yield cluster
  finally:
    cluster.shutdown()


def _rounds_done(folder: pathlib.Path) -> int:
  path = folder / 'metrics.csv'
  return path.read_bytes().count(b'\n') - 1 if path.exists() else -1


@contextlib.contextmanager
def _in_round(
  folder: pathlib.Path, number: int, seconds: float, what: Callable[[], None]
) -> Iterator[None]:
  """Calls `what` in a thread, after a number of rounds of the run in `folder`, plus a delay."""
  is_over = threading.Event()

  def wait() -> None:
    while _rounds_done(folder) < number and not is_over.is_set():
      time.sleep(0.002)
    time.sleep(seconds)
    what()

  thread = threading.Thread(target=wait)
  thread.start()
  try:
    yield
  finally:
    is_over.set()
    thread.join()


class _Moments:
  """Draws moments in rounds after the first, based on the times of an undisturbed run."""

  def __init__(self):
    self._rng = np.random.default_rng(_SEED.value)
    self._seconds: dict[Any, float] = {}

  def measure(self, case: Any, folder: pathlib.Path) -> None:
    with open(folder / 'metrics.csv') as file:
      rows = [float(row['round_seconds']) for row in csv.DictReader(file)]
    self._seconds[case] = statistics.median(rows[1:])

  def knows(self, case: Any) -> bool:
    return case in self._seconds

  def draw(self, case: Any) -> tuple[int, float]:
    """The number of finished rounds, and the delay in seconds."""
    rounds = (_COMMON | (_MNIST if case[0] == 'mnist' else {}))['rounds']
    return int(self._rng.integers(1, rounds)), float(self._rng.uniform(0, self._seconds[case]))

  def choose(self, things: list[Any]) -> Any:
    return things[int(self._rng.integers(len(things)))]


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
  report, moments = _Report(), _Moments()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    numbers = iter(range(10**6))
    new = lambda: root / str(next(numbers))  # noqa: E731
    expected = {case: _facts(_run(*case, new()).folder) for case in cases}

    def compare(case: tuple[str, str], where: Mapping[str, Any], **about: Any) -> None:
      run = _run(*case, new(), context='ray', **where)
      report.add(expected[case], run.folder, task=case[0], method=case[1], **about)
      moments.measure(case, run.folder)

    def compare_disturbed(
      case: tuple[str, str],
      where: Mapping[str, Any],
      opened: Mapping[Any, Any],
      end: Callable[[Any], None],
      **about: Any,
    ) -> None:
      if not opened or not moments.knows(case):
        moments.measure(case, _run(*case, new(), context='ray', **where).folder)
      (context,) = opened.values()
      _wait_for_workers(context, where['ray_workers'])
      folder, (number, seconds) = new(), moments.draw(case)
      losses, start = context.losses, time.monotonic()
      with _in_round(folder, number, seconds, lambda: end(context)):
        _run(*case, folder, context='ray', **where)
      report.add(expected[case], folder, task=case[0], method=case[1], **about,
                 rounds_done=number, seconds_later=round(seconds, 3),
                 lost_workers=context.losses - losses,
                 run_seconds=round(time.monotonic() - start, 1))  # fmt: skip

    for workers in map(int, _WORKERS.value):
      with contexts.shared():
        for case in cases:
          compare(case, dict(ray_workers=workers), workers=workers)

    end_worker = lambda c: os.kill(moments.choose(c.workers).pid, signal.SIGKILL)  # noqa: E731
    with contexts.shared() as opened:
      for i in range(_KILLS.value):
        compare_disturbed(cases[i % len(cases)], dict(ray_workers=2), opened, end_worker,
                          workers=2, ended='worker')  # fmt: skip

    if _NODES.value:
      with _cluster(_NODES.value) as cluster, contexts.shared() as opened:
        where = dict(ray_address=cluster.address, ray_workers=_NODES.value)
        for case in cases:
          compare(case, where, nodes=_NODES.value)

        def end_node(context: Any) -> None:
          del context
          cluster.remove_node(moments.choose(list(cluster.worker_nodes)), allow_graceful=False)

        for i in range(_KILLS.value):
          compare_disturbed(cases[i % len(cases)], where, opened, end_node,
                            nodes=_NODES.value, ended='node')  # fmt: skip
          cluster.add_node(num_cpus=1)
  sys.exit(0 if report.is_equal else 1)


if __name__ == '__main__':
  app.run(main)
