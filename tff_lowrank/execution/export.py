"""Writes the XLA programs of a computation, for machines that have jax but no TensorFlow."""

from collections.abc import Iterator, Sequence
import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import tensorflow_federated as tff

import tff_lowrank
from tff_lowrank import checks
from tff_lowrank import exported
from tff_lowrank.execution import context as context_lib
from tff_lowrank.execution import portable
from tff_lowrank.execution import recording

INPUTS = ('arrays', 'seeds', 'none')
# Arrays up to this size are written to files even with `inputs='seeds'`.
_KEPT_BYTES = 300_000
_KEPT_RESULTS = 4096


def export_programs(
  computation: tff.Computation,
  arguments: Sequence[Any],
  folder: str | pathlib.Path,
  *,
  context: context_lib.LocalContext | None = None,
  inputs: str = 'arrays',
  precision: str | None = None,
) -> dict[str, Any]:
  """Runs a computation and writes the XLA programs of its clients' parts to `folder`.

  Each program is a file of portable StableHLO. `tff_lowrank.exported` reads and runs the files; it
  needs only NumPy and a current jax, and a copy of it is written to the folder. `manifest.json`
  lists the files. The server's part, and parts that TensorFlow runs, are not written.

  Args:
    computation: For example `process.next`.
    arguments: The computation's arguments, for example `[state, client_data]`.
    folder: Created if it does not exist.
    context: A local context to run it in. If None, one on the CPU, with `compile='xla'`.
    inputs: Which arguments and results are written with the programs: `'arrays'`, those of each
      program's first call; `'seeds'`, seeds in place of large arrays, from which the reader makes
      random arrays of the same mean and deviation, and sums in place of large results; or
      `'none'`.
    precision: The precision of all products and convolutions: `'highest'` (float32 everywhere),
      `'high'` or `'default'` (the device's fastest). If None, that of the context's programs. It
      does not affect the results written for `inputs='arrays'`, which are the context's.

  Returns:
    The manifest.

  Raises:
    TypeError: If an argument has the wrong type.
    ValueError: If XLA runs no part of it in this context, or a program has no portable form.
  """
  if not isinstance(computation, tff.Computation):
    raise TypeError(f'Expected a tff.Computation, found {type(computation).__name__}.')
  checks.check_one_of('inputs', inputs, INPUTS)
  if precision is not None:
    checks.check_one_of('precision', precision, portable.PRECISIONS)
  if context is None:
    context = context_lib.create_local_context(['CPU:0'], 'xla', max_clients_in_flight=1)
  with context, recording.recording() as records:
    computation(*arguments)
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  programs = []
  for stage, of_stage, batched in _by_stage(context, computation, records):
    for number, record in enumerate(of_stage):
      name = f'stage{stage}-{number}'
      entry = dict(name=name, stage=stage, batched=batched, num_calls=record.num_calls)
      programs.append(entry | _write(folder, name, record, inputs, precision))
  if not programs:
    raise ValueError(
      f'Expected a computation with parts that XLA runs; {_reasons(context, computation)}'
    )
  manifest = dict(
    format=exported.FORMAT,
    computation=computation.type_signature.compact_representation()[:1000],
    versions=dict(
      tff_lowrank=tff_lowrank.__version__,
      jax=jax.__version__,
      stablehlo=portable.STABLEHLO_VERSION,
    ),
    programs=programs,
  )
  (folder / exported.MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n')
  shutil.copy(exported.__file__, folder / 'exported.py')
  return manifest


def _by_stage(
  context: context_lib.LocalContext,
  computation: tff.Computation,
  records: Sequence[recording.Recorded],
) -> Iterator[tuple[int, list[recording.Recorded], bool]]:
  """Yields for each stage: its number from 1, its programs in call order, if they are batched."""
  for number, stage in enumerate(context.plan(computation).stages, 1):
    if not stage.clients and not stage.aggregations:
      continue
    for device in context.runner.devices:
      programs, _ = context.runner.engine(stage, device)
      if programs is not None:
        compiled = {id(program) for program in programs.compiled}
        of_stage = [record for record in records if id(record.program) in compiled]
        if of_stage:
          yield number, of_stage, programs.batched


def _reasons(context: context_lib.LocalContext, computation: tff.Computation) -> str:
  found = []
  for number, stage in enumerate(context.plan(computation).stages, 1):
    if stage.clients or stage.aggregations:
      for device in context.runner.devices:
        programs, reason = context.runner.engine(stage, device)
        failure = None if programs is None else programs.failure
        reason = reason or failure or 'too little work for a program'
        found.append(f'stage {number} on {device.name}: {reason}')
  return '; '.join(found) or 'it has no clients.'


def _write(
  folder: pathlib.Path, name: str, record: recording.Recorded, inputs: str, precision: str | None
) -> dict[str, Any]:
  """Writes a program and its arrays. Returns its entry in the manifest."""
  program = portable.make_portable(record.program.module, precision)
  (folder / f'{name}.mlirbc').write_bytes(program.artifact)
  of_call = [*record.arguments, *record.captured]
  num_captured = len(record.captured)
  arguments: list[dict[str, Any]] = [
    dict(name=f'argument{i:03}', shape=shape, dtype=dtype)
    for i, (shape, dtype) in enumerate(program.arguments)
  ]
  for entry in arguments[len(arguments) - num_captured :]:
    entry['name'] = entry['name'].replace('argument', 'captured')
  results: list[dict[str, Any]] = [
    dict(name=f'result{i:03}', shape=shape, dtype=dtype, sketched=False)
    for i, (shape, dtype) in enumerate(program.results)
  ]
  found = dict(
    file=f'{name}.mlirbc', precision=program.precision, arguments=arguments, results=results
  )
  stored: dict[str, np.ndarray] = {}
  if inputs == 'arrays':
    stored = {e['name']: a for e, a in zip(arguments, of_call, strict=True)}
    stored |= {e['name']: a for e, a in zip(results, record.results, strict=True)}
  elif inputs == 'seeds':
    for seed, (entry, array) in enumerate(zip(arguments, of_call, strict=True)):
      if array.nbytes <= _KEPT_BYTES:
        stored[entry['name']] = array
      else:
        entry['random'] = _describe(array, seed)
    stored |= _results_on_the_cpu(folder, found, stored)
  if inputs != 'none':
    stored = {k: exported.as_stored(a) for k, a in stored.items()}
    np.savez_compressed(folder / f'{name}.npz', **stored)
  return found


def _describe(array: np.ndarray, seed: int) -> dict[str, Any]:
  """How to make a random array like `array`: same range; for floats, same mean and deviation."""
  if array.dtype == np.bool_:
    low, high = 0.0, float(array.mean())
  elif array.dtype.kind in 'iu':
    low, high = int(array.min()), int(array.max())
  else:
    wide = array.astype(np.float64)
    # A uniform distribution extends sqrt(3) deviations from its mean.
    reach = np.sqrt(3) * wide.std()
    low = float(max(wide.mean() - reach, wide.min()))
    high = float(min(wide.mean() + reach, wide.max()))
  spec = dict(seed=seed, low=low, high=high)
  made = exported.generate(spec, array.shape, array.dtype.name)
  return spec | dict(checksum=exported.checksum(made))


def _results_on_the_cpu(
  folder: pathlib.Path, entry: dict[str, Any], stored: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
  """The results for the arguments that the reader will make; sums in place of large results."""
  program = exported.Program(folder, entry)
  executable = exported.Executable(program.artifact, jax.devices('cpu')[0])
  arguments = [exported.argument(e, stored) for e in entry['arguments']]
  results = exported.to_host(executable(executable.put(arguments)))
  found = {}
  for result, array in zip(entry['results'], results, strict=True):
    result['sketched'] = array.size > _KEPT_RESULTS
    found[result['name']] = exported.sketch(array) if result['sketched'] else array
  return found
