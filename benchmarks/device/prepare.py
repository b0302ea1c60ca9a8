"""Writes the programs and data for `benchmarks.device.check`; needs TensorFlow, and no GPU.

  python -m benchmarks.device.prepare --output_dir=build/device [--cases=A,B] [--modes=batched]

Each case's round runs here once in each mode: `batched`, where each operation is batched over
clients, and `in_turn`, one client after the other; all clients are in one program. Large inputs are
written as seeds, so that the folder stays small (at most 50 MB is checked). Cases that a mode
cannot run are listed with the reason. `sensitivity` is the change of the CPU's own results if
inputs change by a millionth: ties in pooling, or LBGM's threshold, can decide a round.
"""

from collections.abc import Iterator, Sequence
import contextlib
import json
import os
import pathlib
import shutil
import time
from typing import Any
from unittest import mock

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

from absl import app
from absl import flags
import jax
import numpy as np

from benchmarks.device import cases
from tff_lowrank import execution
from tff_lowrank import exported
from tff_lowrank.execution import cohort
from tff_lowrank.execution import context as context_lib
from tff_lowrank.execution import xla

MODES = ('batched', 'in_turn')
LIMIT_MB = 50.0

_OUTPUT_DIR = flags.DEFINE_string('output_dir', 'build/device', 'Folder to write to.')
_CASES = flags.DEFINE_list('cases', list(cases.NAMES), 'Cases to export.')
_MODES = flags.DEFINE_list('modes', list(MODES), 'Modes to export.')
_PRECISION = flags.DEFINE_enum(
  'precision',
  'highest',
  ('highest', 'high', 'default', 'as_is'),
  'Precision of products and convolutions.',
)


@contextlib.contextmanager
def _context(mode: str) -> Iterator[context_lib.LocalContext]:
  """A context on the CPU that runs a round as on a GPU."""
  programs = xla.StagePrograms

  def make(stage: Any, device: Any, **settings: Any) -> xla.StagePrograms:
    return programs(stage, device, **(settings | dict(batched=mode == 'batched')))

  with (
    mock.patch.object(xla, 'StagePrograms', make),
    mock.patch.object(cohort, 'partition', lambda num_clients, *_: [range(num_clients)]),
    execution.create_local_context(['CPU:0'], 'xla', max_clients_in_flight=1) as context,
  ):
    yield context


def _why_not(context: context_lib.LocalContext, case: cases.Case) -> str:
  """The reason why a stage is not batched over clients; empty if it is."""
  for stage in context.plan(case.process.next).stages:
    for device in context.runner.devices:
      programs, _ = context.runner.engine(stage, device)
      if programs is not None and programs.num_programs and not programs.batched:
        return programs.failure_batched or 'this stage is not batched'
  return ''


def _sensitivity(program: exported.Program) -> float:
  """The change of the CPU's own results if its inputs change by a millionth."""
  rng = np.random.default_rng(0)
  executable = exported.Executable(program.artifact, jax.devices('cpu')[0])

  def disturb(array: np.ndarray) -> np.ndarray:
    if array.dtype != np.float32:
      return array
    return (array * (1 + 1e-6 * rng.choice([-1, 1], array.shape))).astype(np.float32)

  arguments = executable.put([disturb(a) for a in program.arguments()])
  off = program.differences(exported.to_host(executable(arguments)))
  return max(
    (
      o
      for o, r in zip(off, program.entry['results'], strict=True)
      if r['dtype'].startswith('float')
    ),
    default=0.0,
  )


def _export(name: str, mode: str, folder: pathlib.Path, precision: str | None) -> str:
  """Exports a case in a mode; returns the reason if it could not, else nothing."""
  with execution.create_local_context():  # This is faster for the earlier rounds.
    case = cases.build(name)
  with _context(mode) as context:
    manifest = execution.export_programs(
      case.process.next,
      case.arguments,
      folder,
      context=context,
      inputs='seeds',
      precision=precision,
    )
    reason = _why_not(context, case) if mode == 'batched' else ''
  if reason:  # It ran in turn.
    in_turn = folder.with_name(f'{name}-in_turn')
    shutil.rmtree(in_turn, ignore_errors=True)
    folder = folder.rename(in_turn)
    mode = 'in_turn'
  found = dict(name=name, mode=mode, shape=case.shape, data=cases.data_shapes(case))
  found['sensitivity'] = {p.name: _sensitivity(p) for p in exported.load(folder)}
  (folder / 'case.json').write_text(json.dumps(found))
  hand = folder.parent / 'by_hand'
  hand.mkdir(exist_ok=True)
  (hand / f'{name}.json').write_text(
    json.dumps(dict(name=name, shape=case.shape, weights=case.weights), indent=1)
  )
  shown = [f'{p["name"]} {"batched" if p["batched"] else "in turn"}' for p in manifest['programs']]
  print(f'{name} {mode}: {", ".join(shown)}', flush=True)
  return reason


def main(argv: Sequence[str]) -> int:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  root = pathlib.Path(_OUTPUT_DIR.value)
  root.mkdir(parents=True, exist_ok=True)
  precision = None if _PRECISION.value == 'as_is' else _PRECISION.value
  left_out = []
  for name in _CASES.value:
    for mode in MODES:
      shutil.rmtree(root / f'{name}-{mode}', ignore_errors=True)
    for mode in _MODES.value:
      start, folder = time.perf_counter(), root / f'{name}-{mode}'
      if folder.exists():  # From the attempt to batch it.
        continue
      try:
        reason = _export(name, mode, folder, precision)
      except Exception as e:
        shutil.rmtree(folder, ignore_errors=True)
        reason = f'{type(e).__name__}: {str(e)[:300]}'
      if reason:
        left_out.append(dict(name=name, mode=mode, reason=' '.join(reason.split())))
        print(f'{name} {mode}: not available: {left_out[-1]["reason"]}', flush=True)
      print(f'  {time.perf_counter() - start:.1f} s', flush=True)
  (root / 'left_out.json').write_text(json.dumps(left_out, indent=1))
  megabytes = sum(path.stat().st_size for path in root.rglob('*') if path.is_file()) / 1e6
  print(f'{root}: {megabytes:.1f} MB')
  return int(megabytes > LIMIT_MB)


if __name__ == '__main__':
  app.run(main)
