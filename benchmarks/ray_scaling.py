"""Simulates rounds on a cluster with hundreds of workers, to find where they saturate.

  python -m benchmarks.ray_scaling --measure
  python -m benchmarks.ray_scaling --output_dir=benchmarks/results

Uses the schedule and the tree of partial aggregates of `execution.schedule`. Simulates everything
that takes time: workers, the program's single thread, and the network links of its machine and of
the nodes, each of which does one thing at a time. The times are measured: those of a client's steps
by `benchmarks.ray_time`, those of the program per block and per client with --measure, which runs
clients without work on real workers of this machine. Writes a table and a figure.

The model is sent from node to node: each node that has it sends it to one other at a time, as in
Ray. A client's state is as large as the model. It is on the node where the client ran last; whether
a block of a new random cohort runs there is random, else the state is fetched. It is also copied to
a second node.
"""

from collections.abc import Iterator, Sequence
import csv
import dataclasses
import heapq
import itertools
import pathlib
import time
from typing import Any

from absl import app
from absl import flags
import numpy as np

from tff_lowrank.execution import block_results
from tff_lowrank.execution import cohort
from tff_lowrank.execution import schedule

_OUTPUT_DIR = flags.DEFINE_string('output_dir', None, 'Folder for the table and the figure.')
_MEASURE = flags.DEFINE_boolean('measure', False, "Measure the program's time per block.")
_GBPS = flags.DEFINE_float('gbps', 10.0, 'Bandwidth of each link, in 10^9 bits per second.')
_WORKERS_PER_NODE = flags.DEFINE_integer('workers_per_node', 8, 'Workers per node.')
_NUMBERS_SECONDS = flags.DEFINE_float(
  'numbers_seconds', 1.25e-8, 'Seconds of a client step on one core, per number in the model.'
)
_STEPS = flags.DEFINE_float(
  'steps', 6, 'Mean number of steps per client, log-normal with sigma 0.7.'
)
_BLOCK_SECONDS = flags.DEFINE_float('block_seconds', 0.0035, "The program's seconds per block.")
_CLIENT_SECONDS = flags.DEFINE_float(
  'client_seconds', 0.000075, "The program's seconds per client."
)
_MERGE_BYTES = flags.DEFINE_float('merge_bytes', 2e9, 'Bytes per second that a worker merges.')
_WINDOW_BYTES = flags.DEFINE_float(
  'window_bytes',
  0.3 * 64e9,
  'Partial aggregates that may wait per node, in bytes, as in the context.',
)


@dataclasses.dataclass(frozen=True)
class Round:
  """The simulated round. model: its number of float32 numbers."""

  workers: int
  clients: int
  model: int
  has_memory: bool = False
  has_tree: bool = True


class Links:
  """Two links per machine, in and out; 0 is the program's. Each carries one message at a time."""

  def __init__(self, machines: int):
    self._free = np.zeros((machines, 2))
    self.busy = np.zeros((machines, 2))

  def send(self, now: float, source: int, target: int, size: float) -> float:
    """The time when `size` bytes have arrived."""
    if source == target:
      return now
    seconds = size * 8 / (_GBPS.value * 1e9)
    start = max(now, self._free[source, 1], self._free[target, 0])
    for machine, way in ((source, 1), (target, 0)):
      self._free[machine, way] = start + seconds
      self.busy[machine, way] += seconds
    return start + seconds


class Simulation:
  """One round; see `run`."""

  def __init__(self, what: Round, seed: int = 0):
    self._what, self._rng = what, np.random.default_rng(seed)
    self._bytes = 4.0 * what.model
    self._nodes = -(-what.workers // _WORKERS_PER_NODE.value)
    self._links = Links(self._nodes + 1)
    blocks = cohort.partition(what.clients)
    steps = self._rng.lognormal(np.log(_STEPS.value) - 0.245, 0.7, what.clients)
    self._steps = [float(steps[b.start : b.stop].sum()) for b in blocks]
    self._sizes = [len(b) for b in blocks]
    window = int(_WINDOW_BYTES.value * self._nodes / self._bytes)
    self._schedule = schedule.Schedule([schedule.Block(s) for s in self._steps], window)
    self._tree = None
    if what.has_tree and len(blocks) > block_results.FAN_IN:
      self._tree = schedule.Tree(len(blocks))
    self._where: dict[schedule.Node, int] = {}
    self._to_fold: list[schedule.Node] = []
    self._program_free = 0.0
    self._program_busy = 0.0
    self._worker_busy = 0.0
    self._most_waiting = 0
    self._copied = 0.0  # When the last copy has arrived.
    self._starved = 0.0  # Seconds of workers that waited for room for results.
    self._tail = 0.0  # Seconds of workers for which no block was left.

  def _program(self, now: float, seconds: float) -> float:
    """The time when the program's thread has finished a task that can start at `now`."""
    self._program_free = max(now, self._program_free) + seconds
    self._program_busy += seconds
    return self._program_free

  def _node(self, worker: int) -> int:
    return 1 + worker // _WORKERS_PER_NODE.value

  def _broadcast(self) -> list[float]:
    """The time when each node has the model."""
    has, times = [(0.0, 0)], [0.0] * (self._nodes + 1)
    for node in range(1, self._nodes + 1):
      _, source = heapq.heappop(has)
      times[node] = self._links.send(times[source], source, node, self._bytes)
      heapq.heappush(has, (times[node], source))
      heapq.heappush(has, (times[node], node))
    return times

  def _block(self, now: float, worker: int, block: int) -> float:
    """The time when a worker has finished a block that it gets at `now`."""
    clients, node = self._sizes[block], self._node(worker)
    start = self._program(now, _BLOCK_SECONDS.value + clients * _CLIENT_SECONDS.value)
    seconds = self._steps[block] * _NUMBERS_SECONDS.value * self._what.model
    self._worker_busy += seconds
    if not self._what.has_memory or self._nodes == 1:
      return start + seconds
    other = 1 + (node + int(self._rng.integers(self._nodes - 1))) % self._nodes
    away = clients * (1 - 1 / self._nodes) * self._bytes  # Clients whose state is on other nodes.
    return self._links.send(start, other, node, away) + seconds

  def _copy(self, now: float, worker: int, block: int) -> None:
    """Copies the state of a block's clients to another node, while the worker continues."""
    node = self._node(worker)
    other = 1 + (node + int(self._rng.integers(self._nodes - 1))) % self._nodes
    self._copied = max(
      self._copied, self._links.send(now, node, other, self._sizes[block] * self._bytes)
    )

  def _fold(self, now: float, worker: int, node: schedule.Node) -> float:
    asked, there = self._program(now, _BLOCK_SECONDS.value), self._node(worker)
    children = self._tree.children(node)
    start = asked
    for child in children:
      start = max(start, self._links.send(asked, self._where.pop(child), there, self._bytes))
      self._tree.remove(child)
    seconds = len(children) * self._bytes / _MERGE_BYTES.value
    self._worker_busy += seconds
    return start + seconds

  def _there(self, node: schedule.Node, machine: int) -> None:
    self._where[node] = machine
    self._most_waiting = max(self._most_waiting, len(self._where))
    if node[0] == 1:
      for block in self._tree.blocks(node):
        self._schedule.merged(block)
    parent = self._tree.add(node)
    if parent is not None:
      self._to_fold.append(parent)

  def run(self) -> dict[str, Any]:
    """The seconds of the round, and how long each part was busy."""
    ready = self._broadcast()
    order = itertools.count()
    events = [(ready[self._node(w)], next(order), w, None) for w in range(self._what.workers)]
    heapq.heapify(events)
    idle: list[int] = []
    before = 0.0
    end = merged = 0.0
    while events:
      now, _, worker, done = heapq.heappop(events)
      if self._schedule.is_empty:
        self._tail += len(idle) * (now - before)
      else:
        self._starved += len(idle) * (now - before)
      before = now
      if done is not None:
        if done[0] == 0 and self._what.has_memory and self._nodes > 1:
          self._copy(now, worker, done[1])
        if self._tree is not None:
          self._there(done, self._node(worker))
          if done == self._tree.root:
            end = self._links.send(now, self._node(worker), 0, self._bytes)
        else:  # The program fetches each one and merges it.
          arrived = self._links.send(now, self._node(worker), 0, self._bytes)
          merged = self._program(max(arrived, merged), self._bytes / _MERGE_BYTES.value)
          self._schedule.merged(done[1])
          end = max(end, merged)
      idle.append(worker)
      while idle:
        worker = idle[-1]
        if self._to_fold:
          node = self._to_fold.pop(0)
          finished = self._fold(now, worker, node)
        else:
          block = self._schedule.take()
          if block is None:
            break
          node, finished = (0, block), self._block(now, worker, block)
        idle.pop()
        heapq.heappush(events, (finished, next(order), worker, node))
    end = max(end, self._copied)
    busy = self._links.busy
    return dict(
      dataclasses.asdict(self._what),
      seconds=end,
      efficiency=self._worker_busy / self._what.workers / end,
      starved=self._starved / self._what.workers / end,
      tail=self._tail / self._what.workers / end,
      program_busy=self._program_busy / end,
      program_link_busy=busy[0].max() / end,
      node_links_busy=busy[1:].max() / end,
      gigabytes_through_program=busy[0].sum() * _GBPS.value / 8,
      waiting_gigabytes=self._most_waiting * self._bytes / 1e9,
      memory_gigabytes=2 * self._what.clients * self._bytes / 1e9 * self._what.has_memory,
    )


def limit(row: dict[str, Any]) -> str:
  """The bottleneck: the busiest part, or what workers wait for."""
  if row['efficiency'] > 0.8:
    return 'workers'
  candidates = dict(
    memory_for_results=row['starved'],
    too_few_blocks=row['tail'],
    program=row['program_busy'],
    program_link=row['program_link_busy'],
    node_links=row['node_links_busy'],
  )
  return max(candidates, key=candidates.get)


def _rounds() -> Iterator[Round]:
  for model, clients in itertools.product((10**6, 10**7, 10**8, 10**9), (10**4, 10**5, 10**6)):
    for workers in (10, 30, 100, 300, 1000):
      yield Round(workers, clients, model)
  for workers in (10, 30, 100, 300, 1000):
    yield Round(workers, 10**5, 10**6, has_memory=True)
    yield Round(workers, 10**5, 10**7, has_memory=True)
    yield Round(workers, 10**5, 10**7, has_tree=False)
    yield Round(workers, 10**5, 10**6, has_tree=False)


def _draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  import matplotlib

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)

  def plot(axes: Any, label: str, **which: Any) -> None:
    found = [r for r in rows if all(r[k] == v for k, v in which.items())]
    axes.plot(
      [r['workers'] for r in found], [r['efficiency'] for r in found], marker='o', label=label
    )

  plain = dict(has_memory=False, has_tree=True)
  for model in (10**6, 10**7, 10**8, 10**9):
    plot(left, f'model of {model:.0e} numbers', clients=10**5, model=model, **plain)
  left.set_title('$10^5$ clients a round')
  for model in (10**6, 10**7):
    plot(right, f'{model:.0e} numbers', clients=10**5, model=model, **plain)
    plot(right, f'{model:.0e}, merged in the program', clients=10**5, model=model, has_tree=False)
    plot(right, f'{model:.0e}, with client memory', clients=10**5, model=model, has_memory=True)
  right.set_title('$10^5$ clients a round')
  for axes in (left, right):
    axes.set(xscale='log', xlabel='workers')
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
  left.set_ylabel('fraction of time that workers train')
  left.set_ylim(0, 1.02)
  figure.tight_layout()
  figure.savefig(path, dpi=150)


def _measure() -> None:
  """Prints the program's seconds per block and per client, from rounds of clients without work."""
  import tensorflow_federated as tff

  from tff_lowrank import execution

  @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
  def total(values):
    return tff.federated_sum(values)

  seconds = {}
  with execution.create_ray_context(num_workers=2):
    for clients in (64, 512, 32000):  # Four blocks of 16, 16 of 32, and 1,000 of 32.
      values = [np.float32(1)] * clients
      total(values)
      times = []
      for _ in range(5):
        start = time.perf_counter()
        total(values)
        times.append(time.perf_counter() - start)
      seconds[clients] = float(np.median(times))
      blocks = len(cohort.partition(clients))
      print(f'{clients} clients in {blocks} blocks: {seconds[clients]:.4f} s', flush=True)
  # Four blocks have the same overhead with one client or with 32; the rest is per block.
  by_block = (seconds[32000] - seconds[512]) / (1000 - 16)
  print(f'{by_block * 1e3:.3f} ms a block of 32 clients, merging included')


def main(argv: Sequence[str]) -> None:
  del argv
  if _MEASURE.value:
    _measure()
    return
  rows = []
  for what in _rounds():
    row = Simulation(what).run()
    row['limit'] = limit(row)
    rows.append(row)
    print(
      f'{what.workers:5} workers, {what.clients:8,} clients, {what.model:.0e} numbers'
      f'{", memory" * what.has_memory}{", no tree" * (not what.has_tree)}: '
      f'{row["seconds"]:11,.1f} s, workers train {row["efficiency"]:.2f} of it; program '
      f'{row["program_busy"]:.2f}, its link {row["program_link_busy"]:.2f}, nodes '
      f'{row["node_links_busy"]:.2f}: {row["limit"]}',
      flush=True,
    )
  if _OUTPUT_DIR.value:
    folder = pathlib.Path(_OUTPUT_DIR.value)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / 'ray_scaling.csv', 'w', newline='') as file:
      writer = csv.DictWriter(file, rows[0], lineterminator='\n')
      writer.writeheader()
      for row in rows:
        writer.writerow({k: f'{v:.5g}' if isinstance(v, float) else v for k, v in row.items()})
    _draw(rows, folder / 'ray_scaling.png')


if __name__ == '__main__':
  app.run(main)
