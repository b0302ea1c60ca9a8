"""Measures seconds per round on the workers of a Ray cluster and in the local context.

  python -m benchmarks.ray_time --workloads=A,B,C --workers=2 --rounds=20 --json=DIR/ray_time.jsonl

The workloads are those of `benchmarks.round_time`. The local context runs as many clients at a time
as the cluster has workers. Each context has its own process, and they take turns, one round each,
so that both run under the same load. The context starts the cluster on this machine. Prints
medians, the time until the workers are ready, and the bytes of arrays that pass through the program
in a round.
"""

from collections.abc import Sequence
import json
import multiprocessing
import statistics
import time
from typing import Any

from absl import app
from absl import flags
import psutil

from benchmarks import workloads

_WORKLOADS = flags.DEFINE_list('workloads', 'A,B,C', 'Workloads to run.')
_WORKERS = flags.DEFINE_integer(
  'workers', 2, 'Number of workers, and of clients at a time.', lower_bound=1
)
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Timed rounds per context.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File to append one line per workload and context to.')

CONTEXTS = ('local', 'ray')


def _serve(context: str, workload: str, workers: int, pipe: Any) -> None:
  """Runs a round for each request; sends its seconds, and the bytes sent and received."""
  from tff_lowrank import execution

  start = time.perf_counter()
  if context == 'local':
    execution.set_local_context(max_clients_in_flight=workers)
    traffic = None
  else:
    installed = execution.set_ray_context(num_workers=workers)
    traffic = installed.traffic
  start_seconds = time.perf_counter() - start
  run_round = workloads.tff_round(workload)
  first = time.perf_counter()
  run_round()
  first_seconds = time.perf_counter() - first
  for _ in range(workloads.WARM_UP):
    run_round()
  pipe.send(dict(start_seconds=start_seconds, first_round_seconds=first_seconds))
  while pipe.recv():
    before = (traffic.sent, traffic.received) if traffic else (0, 0)
    start = time.perf_counter()
    run_round()
    seconds = time.perf_counter() - start
    after = (traffic.sent, traffic.received) if traffic else (0, 0)
    pipe.send((seconds, after[0] - before[0], after[1] - before[1]))


class _Contender:
  """A context in its own process."""

  def __init__(self, context: str, workload: str, workers: int):
    self.context = context
    self.rounds: list[tuple[float, int, int]] = []
    self._pipe, theirs = multiprocessing.Pipe()
    arguments = (context, workload, workers, theirs)
    self._process = multiprocessing.Process(target=_serve, args=arguments)
    self._process.start()
    theirs.close()
    self.start = self._pipe.recv()

  def run_round(self) -> None:
    self._pipe.send(True)
    self.rounds.append(self._pipe.recv())

  def close(self) -> None:
    """Ends the process and its child processes."""
    family = psutil.Process(self._process.pid).children(recursive=True)
    self._pipe.send(False)
    self._process.join(20)
    self._process.kill()
    for process in family:
      if process.is_running():
        process.kill()


def _measure(workload: str) -> list[dict[str, Any]]:
  contenders = [_Contender(c, workload, _WORKERS.value) for c in CONTEXTS]
  try:
    for _ in range(_ROUNDS.value):
      for contender in contenders:
        contender.run_round()
  finally:
    for contender in contenders:
      contender.close()
  results = []
  for contender in contenders:
    seconds, sent, received = zip(*contender.rounds, strict=True)
    results.append(
      dict(
        workload=workload,
        context=contender.context,
        workers=_WORKERS.value,
        rounds=_ROUNDS.value,
        median_seconds=statistics.median(seconds),
        min_seconds=min(seconds),
        max_seconds=max(seconds),
        bytes_sent=statistics.median(sent),
        bytes_received=statistics.median(received),
        **contender.start,
      )
    )
  return results


def main(argv: Sequence[str]) -> None:
  del argv
  multiprocessing.set_start_method('spawn')
  for workload in _WORKLOADS.value:
    results = _measure(workload)
    local = results[0]['median_seconds']
    for r in results:
      print(
        f'{workload} {r["context"]:5} median {r["median_seconds"]:.4f} s '
        f'({r["min_seconds"]:.4f} to {r["max_seconds"]:.4f}), {r["median_seconds"] / local:.2f} of '
        f'local; started in {r["start_seconds"]:.1f} s, first round {r["first_round_seconds"]:.1f} '
        f's; sent {r["bytes_sent"]:,.0f} and received {r["bytes_received"]:,.0f} bytes a round',
        flush=True,
      )
      if _JSON.value:
        with open(_JSON.value, 'a') as file:
          file.write(json.dumps(r) + '\n')


if __name__ == '__main__':
  app.run(main)
