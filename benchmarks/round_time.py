"""Measures seconds per round of federated averaging: TFF's stock context, the local one, a floor.

  python -m benchmarks.round_time --workloads=A,B,C,D --rounds=10 --json=DIR/times.jsonl

Each context runs in a process of its own, and the processes take turns, a round each, so that
all meet the same machine. The floor is the same training as one hand-written program without
TFF on all cores: the fastest of `benchmarks.floors`. Workloads:

  A  the EMNIST CNN: 5x5 convolutions of 32 and 64 channels with pooling, dense 512 and 62;
     10 clients with 100 examples each, in batches of 20
  B  an MLP 784-200-10; 50 clients with 60 examples each, in batches of 10
  C  as B with 500 clients
  D  next-word prediction with TFF's own recurrent model (masked LSTM of 64 units, embedding of
     32, 504 words, a `tff.learning.models.from_keras_model`); 10 clients with 100 sentences of
     20 words each, in batches of 10
"""

from collections.abc import Callable, Sequence
import json
import statistics
import time
from typing import Any

from absl import app
from absl import flags

from benchmarks import contender
from benchmarks import floors
from benchmarks import workloads

_WORKLOADS = flags.DEFINE_list('workloads', 'A,B,C,D', 'Workloads to run.')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Timed rounds per context.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File to append one line per workload and context to.')
_COMPILE = flags.DEFINE_string('compile', 'auto', 'The local context: auto, tensorflow or xla.')


_FLOOR = 'floor-'


def _build(context: str, workload: str, compile_mode: str) -> tuple[str, Callable[[], float]]:
  """A function that runs a round and returns its seconds."""
  if context.startswith(_FLOOR):
    run_round = floors.BUILDERS[context.removeprefix(_FLOOR)](workload)
  else:
    if context == 'local':
      from tff_lowrank import execution

      execution.set_local_context(compile=compile_mode)
    run_round = workloads.tff_round(workload)
  for _ in range(workloads.WARM_UP):
    run_round()

  def timed() -> float:
    start = time.perf_counter()
    run_round()
    return time.perf_counter() - start

  return '', timed


def _measure(workload: str, rounds: int, compile_mode: str) -> list[dict[str, Any]]:
  contenders = []
  try:
    for name in ('stock', 'local', *(_FLOOR + name for name in floors.BUILDERS)):
      contenders.append(contender.Contender(name, _build, name, workload, compile_mode))
      if not contenders[-1].is_ready:
        print(f'{workload} {name}: not run, {contenders[-1].failure}', flush=True)
    contender.take_turns(contenders, rounds)
    results = [
      dict(
        workload=workload,
        context=c.name,
        median_seconds=statistics.median(c.answers),
        min_seconds=min(c.answers),
        max_seconds=max(c.answers),
        rounds=rounds,
        peak_mb=round(c.peak_mb(), 1),
      )
      for c in contenders
      if c.is_ready
    ]
  finally:
    for c in contenders:
      c.close()
  hand_written = [r for r in results if r['context'].startswith(_FLOOR)]
  best = min(hand_written, key=lambda r: r['median_seconds'])
  return [r for r in results if r not in hand_written] + [
    {**best, 'program': best['context'].removeprefix(_FLOOR), 'context': 'floor'}
  ]


def main(argv: Sequence[str]) -> None:
  del argv
  lines = []
  print('workload  context   median s     min s     max s   peak MB   stock/this  this/floor')
  for workload in _WORKLOADS.value:
    results = _measure(workload, _ROUNDS.value, _COMPILE.value)
    medians = {r['context']: r['median_seconds'] for r in results}
    for r in results:
      print(
        f'{workload:8}  {r["context"]:8} {r["median_seconds"]:9.4f} {r["min_seconds"]:9.4f} '
        f'{r["max_seconds"]:9.4f} {r["peak_mb"]:9.1f} '
        f'{medians.get("stock", float("nan")) / r["median_seconds"]:11.2f} '
        f'{r["median_seconds"] / medians["floor"]:11.2f}   {r.get("program", "")}',
        flush=True,
      )
    lines += results
  if _JSON.value:
    with open(_JSON.value, 'a') as file:
      for line in lines:
        file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  app.run(main)
