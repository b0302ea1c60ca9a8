"""Checks of a run folder before a run starts in it."""

from collections.abc import Mapping
import logging
import pathlib
from typing import Any

from tff_lowrank import files
from tff_lowrank.reports import run_files
from tff_lowrank.runs import provenance
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import manifest


def is_complete(spec: spec_lib.RunSpec, folder: pathlib.Path) -> bool:
  """Whether `folder` has the finished run, unchanged; warns if it is damaged.

  Raises MismatchError if it has a run with other flags.
  """
  record = provenance.read_record(folder / run_files.RECORD)
  if record is None or not has_rows(folder):
    return False
  manifest.check_same_run(folder, record['flags'], spec.as_dict())
  if record['status'] != 'completed' or record['flags'].get('rounds') != spec.rounds:
    return False
  try:
    run_files.check(folder)
  except files.FileError as e:
    logging.warning('%s', e)
    return False
  return True


def check_client_rates(spec: spec_lib.RunSpec, folder: pathlib.Path) -> None:
  """Raises MismatchError if the run in `folder` has other client learning rates than `spec`."""
  record = provenance.read_record(folder / run_files.RECORD) or {}
  rates = spec.client_rates or {}
  before = record.get('client_learning_rates', rates)
  for client_id, rate in rates.items():
    if before.get(client_id) != rate:
      raise manifest.MismatchError(
        f'{folder} contains another run: --client_learning_rate of client {client_id!r} is '
        f'{before.get(client_id)} there and {rate} here. Use the same, or another --output_dir.'
      )


def has_rows(folder: pathlib.Path) -> bool:
  path = folder / run_files.METRICS
  if not path.exists():
    return False
  files.check_regular(path, 'the metrics of a run')
  return path.stat().st_size > 0


def check_has_checkpoint(folder: pathlib.Path, before: Mapping[str, Any] | None) -> None:
  """Raises DamagedError if there are rows but no checkpoint, unless a run was killed early."""
  is_cut_off = before is not None and before['status'] in ('running', 'failed')
  if not is_cut_off and not any(folder.glob(f'{run_files.CHECKPOINTS}/*/*')):
    raise manifest.DamagedError(
      f'{folder} has {run_files.METRICS} but no checkpoint to resume from, so its rows '
      'would be lost. Use another --output_dir, or delete that file.'
    )


def check_not_undone(folder: pathlib.Path, spec: spec_lib.RunSpec) -> None:
  """Raises MismatchError if the run in `folder` has more rounds than `spec`."""
  done = max(manifest.saved_rounds(folder / run_files.CHECKPOINTS), default=0)
  if done > spec.rounds:
    raise manifest.MismatchError(
      f'{folder} has {done} rounds already, more than --rounds={spec.rounds}. Use --rounds={done} '
      'or more, or another --output_dir.'
    )
