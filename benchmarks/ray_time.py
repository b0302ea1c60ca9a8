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
import statistics
import time
from typing import Any

from absl import app
from absl import flags

from benchmarks import contender
from benchmarks import workloads

_WORKLOADS = flags.DEFINE_list('workloads', 'A,B,C', 'Workloads to run.')
_WORKERS = flags.DEFINE_integer(
  'workers', 2, 'Number of workers, and of clients at a time.', lower_bound=1
)
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'Timed rounds per context.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File to append one line per workload and context to.')

CONTEXTS = ('local', 'ray')


def _build(context: str, workload: str, workers: int) -> tuple[dict[str, float], Any]:
  """A function that runs a round; it returns its seconds, and the bytes sent and received."""
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

  def timed() -> tuple[float, int, int]:
    before = (traffic.sent, traffic.received) if traffic else (0, 0)
    start = time.perf_counter()
    run_round()
    seconds = time.perf_counter() - start
    after = (traffic.sent, traffic.received) if traffic else (0, 0)
    return seconds, after[0] - before[0], after[1] - before[1]

  return dict(start_seconds=start_seconds, first_round_seconds=first_seconds), timed


def _measure(workload: str) -> list[dict[str, Any]]:
  contenders = [contender.Contender(c, _build, c, workload, _WORKERS.value) for c in CONTEXTS]
  try:
    for c in contenders:
      if not c.is_ready:
        raise RuntimeError(f'{c.name} could not run: {c.failure}')
    contender.take_turns(contenders, _ROUNDS.value)
  finally:
    for c in contenders:
      c.close(seconds=20)
  results = []
  for c in contenders:
    seconds, sent, received = zip(*c.answers, strict=True)
    results.append(
      dict(
        workload=workload,
        context=c.name,
        workers=_WORKERS.value,
        rounds=_ROUNDS.value,
        median_seconds=statistics.median(seconds),
        min_seconds=min(seconds),
        max_seconds=max(seconds),
        bytes_sent=statistics.median(sent),
        bytes_received=statistics.median(received),
        **c.found,
      )
    )
  return results


def main(argv: Sequence[str]) -> None:
  del argv
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
