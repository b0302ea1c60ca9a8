"""Runs the programs that `benchmarks.device.prepare` wrote, on a machine with only NumPy and jax.

  python -m benchmarks.device.check build/device --json=check.jsonl [--limit_seconds=330]

For each case, the most important first, measures the context's own program, batched and in turn
(difference from the CPU's numbers, whether a repeat gives the same bits, temporary memory,
milliseconds with all arguments on the device, with the clients' data copied in each round, and with
all arguments and results copied), and the same training by hand. Each is one JSON line, written at
once. Steps that do not fit into the time limit get their own lines. Prints the table of
`benchmarks.device.table` at the end. The exit status is 1 if something failed.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from benchmarks.device import table

# Cases in the order in which they are measured.
CASES = ('A', 'B', 'C', 'D', 'lbgm', 'apf', 'cnn', 'vgg', 'fedpara')
# The seconds after the limit until a hanging step is ended.
GRACE = 20.0


@dataclasses.dataclass(frozen=True)
class Settings:
  """How to measure.

  device: a jax device.
  seconds: the time for the repetitions of one measurement.
  repeats: the maximum number of repetitions.
  """

  device: Any
  seconds: float
  repeats: int

  def median_ms(self, function: Callable[[], Any]) -> float:
    """The median milliseconds of at least one call."""
    spent: list[float] = []
    while not spent or (sum(spent) < self.seconds and len(spent) < self.repeats):
      start = time.perf_counter()
      function()
      spent.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(spent), 4)


def _is_data(argument: dict[str, Any], shapes: Sequence[Sequence[int]]) -> bool:
  """Whether an argument of a program has clients' examples or labels."""
  shape = argument['shape']
  return any(len(shape) > len(end) and shape[-len(end) :] == list(end) for end in shapes)


def program_line(settings: Settings, program: Any, data: Sequence[Sequence[int]]) -> dict[str, Any]:
  """Measures a program; `data` are the ends of its data arguments' shapes."""
  from tff_lowrank import exported

  executable = exported.Executable(program.artifact, settings.device)
  arguments = program.arguments()
  entries = program.entry['arguments']
  moved = [i for i, e in enumerate(entries) if _is_data(e, data)]
  there = executable.put(arguments)
  results = exported.to_host(executable(there))
  again = exported.to_host(executable(there))

  def with_data() -> None:
    fresh = list(there)
    for i, array in zip(moved, executable.put([arguments[i] for i in moved]), strict=True):
      fresh[i] = array
    executable(fresh)

  off = program.differences(results)
  floats = [r['dtype'].startswith(('float', 'bfloat')) for r in program.entry['results']]
  return dict(
    compile_seconds=round(executable.compile_seconds, 2),
    ms=settings.median_ms(lambda: executable(there)),
    ms_with_data=settings.median_ms(with_data),
    ms_with_crossing=settings.median_ms(
      lambda: exported.to_host(executable(executable.put(arguments)))
    ),
    worst=max((o for o, f in zip(off, floats, strict=True) if f), default=0.0),
    integers_equal=not any(o for o, f in zip(off, floats, strict=True) if not f),
    is_repeatable=exported.are_same(results, again),
    temporary_mb=_megabytes(executable.temporary_bytes),
    data_mb=_megabytes(sum(arguments[i].nbytes for i in moved)),
    argument_mb=_megabytes(sum(a.nbytes for a in arguments)),
    result_mb=_megabytes(sum(r.nbytes for r in results)),
    num_calls=program.entry['num_calls'],
    precision=program.entry['precision'],
  )


def hand_line(
  settings: Settings, case: dict[str, Any], precision: str, **how: Any
) -> dict[str, Any]:
  """Measures the training by hand; `precision` is 'highest' or 'default', `how` as in `by_hand`."""
  import jax

  from benchmarks.device import by_hand
  from tff_lowrank import exported

  training = by_hand.build(case, **how)
  there = jax.device_put(training.arguments, settings.device)
  start = time.perf_counter()
  # Full float32, by the name that all versions of jax support.
  full = precision == 'highest'
  with jax.default_matmul_precision('float32') if full else contextlib.nullcontext():
    compiled = jax.jit(training.round).lower(*there).compile()
  compile_seconds = time.perf_counter() - start
  run = lambda: jax.block_until_ready(compiled(*there))  # noqa: E731
  first, second = (exported.to_host(jax.tree_util.tree_leaves(run())) for _ in range(2))
  memory = compiled.memory_analysis()
  return dict(
    compile_seconds=round(compile_seconds, 2),
    ms=settings.median_ms(run),
    is_repeatable=exported.are_same(first, second),
    is_finite=all(bool(abs(a).max() < 1e30) for a in first),
    temporary_mb=_megabytes(memory.temp_size_in_bytes if memory else None),
  )


def _megabytes(num_bytes: int | None) -> float | None:
  return None if num_bytes is None else round(num_bytes / 1e6, 3)


@dataclasses.dataclass(frozen=True)
class Step:
  """A measurement: the common part of its lines, and a function that returns the lines."""

  says: dict[str, Any]
  measure: Callable[[], Iterator[dict[str, Any]]]


def steps(folder: pathlib.Path, settings: Settings, cases: Sequence[str]) -> list[Step]:
  """All measurements, the most important first."""
  from benchmarks.device import by_hand
  from tff_lowrank import exported

  def programs(name: str, mode: str) -> list[Step]:
    path = folder / f'{name}-{mode}'
    if not (path / exported.MANIFEST).exists():
      return []
    case = json.loads((path / 'case.json').read_text())

    def measure() -> Iterator[dict[str, Any]]:
      for program in exported.load(path):
        yield dict(
          program=program.name,
          **program_line(settings, program, case['data']),
          cpu_sensitivity=case['sensitivity'][program.name],
        )

    return [Step(dict(part='program', case=name, mode=mode), measure)]

  def hand(name: str, dtype: str = 'float32', precision: str = 'highest', **how: Any) -> list[Step]:
    path = folder / 'by_hand' / f'{name}.json'
    if not path.exists():
      return []
    case = json.loads(path.read_text())
    says = dict(part='hand', case=name, mode='in_turn' if how.get('in_turn') else 'batched')
    if name in by_hand.HAS_CONVOLUTIONS:
      says['convolutions'] = 'patches' if how.get('patches', True) else 'grouped'
    says |= dict(dtype=dtype, precision=precision)
    return [Step(says, lambda: iter([hand_line(settings, case, precision, dtype=dtype, **how)]))]

  found = []
  for name in cases:
    found += programs(name, 'batched') + hand(name)
  for name in cases:
    found += programs(name, 'in_turn')
  for name in cases:
    found += hand(name, 'bfloat16', 'default')
  for name in cases:
    found += hand(name, precision='default')
  for name in cases:
    if name in by_hand.HAS_CONVOLUTIONS:
      found += hand(name, patches=False)
  for name in cases:
    found += hand(name, in_turn=True, patches=False)
  return found


class Log:
  """Prints JSON lines and appends them to a file, each at once."""

  def __init__(self, path: str | None):
    self.lines: list[dict[str, Any]] = []
    self._file = open(path, 'a') if path else None
    self._lock = threading.Lock()

  def __call__(self, **line: Any) -> None:
    with self._lock:
      self.lines.append(line)
      text = json.dumps(line)
      print(text, flush=True)
      if self._file:
        self._file.write(text + '\n')
        self._file.flush()


def _nvidia() -> str | None:
  """The output of nvidia-smi on the GPUs, if it exists."""
  query = '--query-gpu=name,driver_version,compute_cap,memory.total'
  try:
    command = ['nvidia-smi', query, '--format=csv,noheader']
    return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
  except (OSError, subprocess.TimeoutExpired):
    return None


def measure(todo: Sequence[Step], log: Log, start: float, limit: float) -> bool:
  """Runs the steps that fit into the time limit; returns whether all succeeded."""
  is_well = True
  for step in todo:
    if time.monotonic() - start > limit:
      log(**step.says, skipped=f'more than {limit:g} s had passed')
      continue
    try:
      for line in step.measure():
        log(**step.says, **line)
    except Exception as e:
      is_well = False
      log(**step.says, failed=f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')
  return is_well


def main(argv: Sequence[str] | None = None) -> int:
  start = time.monotonic()
  parser = argparse.ArgumentParser('check', description=__doc__.split('\n')[0])
  parser.add_argument('folder')
  parser.add_argument('--json', help='File to append the lines to.')
  parser.add_argument('--limit_seconds', type=float, default=330.0)
  parser.add_argument('--measure_seconds', type=float, default=1.5, help='Seconds per measurement.')
  parser.add_argument(
    '--repeats', type=int, default=30, help='Maximum number of repetitions per measurement.'
  )
  parser.add_argument('--cases', default=','.join(CASES))
  parser.add_argument('--parts', default='program,hand', help='Cases to measure.')
  parser.add_argument(
    '--deterministic', action='store_true', help="Use XLA's deterministic kernels."
  )
  flags = parser.parse_args(argv)
  os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
  if flags.deterministic:
    os.environ['XLA_FLAGS'] = (
      f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_deterministic_ops=true'.strip()
    )
  log = Log(flags.json)

  def give_up() -> None:
    log(stopped=f'a step did not finish in {flags.limit_seconds + GRACE:g} s; the rest was not run')
    print('\n'.join(table.rows(log.lines)), flush=True)
    os._exit(3)

  watchdog = threading.Timer(flags.limit_seconds + GRACE, give_up)
  watchdog.daemon = True
  watchdog.start()
  import jax

  device = jax.devices()[0]
  log(
    device=device.device_kind,
    platform=device.platform,
    jax=jax.__version__,
    nvidia=_nvidia(),
    deterministic=flags.deterministic,
    xla_flags=os.environ.get('XLA_FLAGS', ''),
  )
  folder = pathlib.Path(flags.folder)
  left_out = folder / 'left_out.json'
  for line in json.loads(left_out.read_text()) if left_out.exists() else []:
    log(part='program', case=line['name'], mode=line['mode'], not_exported=line['reason'])
  settings = Settings(device, flags.measure_seconds, flags.repeats)
  parts = flags.parts.split(',')
  todo = [s for s in steps(folder, settings, flags.cases.split(',')) if s.says['part'] in parts]
  is_well = measure(todo, log, start, flags.limit_seconds)
  watchdog.cancel()
  log(done=True, seconds=round(time.monotonic() - start, 1))
  print('\n'.join(table.rows(log.lines)))
  return int(not is_well)


if __name__ == '__main__':
  sys.exit(main())
