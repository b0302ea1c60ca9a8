"""Trains several methods with the same sampled clients and prints one table.

  tff-lowrank compare --task=digits --methods=fed_avg,lbgm --seeds=1,2 \\
    --output_dir=DIR

A method may have its own values of flags: `lbgm:lbgm_threshold=0.4`, or
`fed_avg:uplink=error_feedback(top_k(0.1))`. Each run is written to DIR/METHOD-seedN. DIR/table.csv
has one row per run, and DIR/summary.csv one row per method, with means and 95 % intervals over
seeds. Both are also written as .parquet and .md. Plots are in DIR/plots, and everything is in the
interactive page DIR/report.html. The same command resumes an interrupted comparison.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import sys

from absl import app
from absl import flags

from tff_lowrank import methods
from tff_lowrank.cli import entry
from tff_lowrank.cli import float_flags
from tff_lowrank.cli import network_flags
from tff_lowrank.cli import parallel
from tff_lowrank.cli import run_flags
from tff_lowrank.cli import saving_flags
from tff_lowrank.cli import seeds_flag
from tff_lowrank.reports import curves
from tff_lowrank.reports import run_files
from tff_lowrank.runs import comparison
from tff_lowrank.runs import contexts
from tff_lowrank.runs import errors
from tff_lowrank.runs import run_folder
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib

_METHODS = flags.DEFINE_string(
  'methods', None, 'Methods to compare: METHOD[:FLAG=VALUE[:FLAG=VALUE...]], separated by commas.'
)
_AT = flags.DEFINE_enum(
  'at',
  'rounds',
  list(curves.SPENT),
  'Unit of the budget at which runs are compared, each by its last evaluation within --budget.',
)
_BUDGET = float_flags.define(
  'budget',
  None,
  'Rounds, 10^6 bytes (uplink and downlink) or simulated seconds, as --at says; if not given, the '
  'total of the cheapest run.',
  lower_bound=0,
)
_JOBS = flags.DEFINE_integer(
  'jobs',
  1,
  'Number of parallel runs, each in its own process, with its output in log.txt; 1: one run after '
  'the other in this process.',
  lower_bound=1,
)


def parse_method(text: str) -> tuple[str, dict[str, object]]:
  """The method and its own values of flags; raises UsageError if they do not exist."""
  method, settings = run_flags.split_method(text)
  with errors.as_setting_errors('--methods'):
    methods.find(method)
  overrides = {}
  for setting in settings:
    name, equals, value = setting.partition('=')
    if not equals:
      raise app.UsageError(f'--methods: expected FLAG=VALUE in {text!r}, found {setting!r}.')
    with errors.as_setting_errors('--methods'):
      run_flags.check_name(name, method)
    overrides[name] = run_flags.parse_value(name, value)
  return method, overrides


def _plan() -> list[tuple[str, spec_lib.RunSpec]]:
  """Label and spec of each run; raises UsageError if the flags are invalid."""
  if not _METHODS.value:
    raise app.UsageError(f'--methods: expected some of {", ".join(methods.METHODS)}, found none.')
  labels = run_flags.split_at_commas(_METHODS.value)
  if len(set(labels)) < len(labels):
    raise app.UsageError(f'--methods: expected different methods, found {_METHODS.value!r}.')
  parsed = [parse_method(label) for label in labels]
  run_flags.check_method_flags([method for method, _ in parsed])
  plan = [
    (label, run_flags.run_spec(method, overrides | dict(seed=seed)))
    for seed in seeds_flag.chosen()
    for label, (method, overrides) in zip(labels, parsed, strict=True)
  ]
  run_flags.check_family_flags([spec for _, spec in plan])
  return plan


def _train(plan: Sequence[tuple[pathlib.Path, spec_lib.RunSpec]]) -> None:
  """Trains the runs that are not finished; exits with status 1 if one in a process failed."""
  how = saving_flags.chosen()
  if _JOBS.value == 1:
    with contexts.shared():
      for run, spec in plan:
        runner.train(spec, run, run.name, how)
    return
  arguments = [f'--{name}={value}' for name, value in dataclasses.asdict(how).items()]
  commands = {
    run: [*run_flags.to_arguments(spec), *arguments]
    for run, spec in plan
    if spec.has_client_rates or not run_folder.is_complete(spec, run)
  }
  failed = parallel.train_all(commands, _JOBS.value)
  if failed:
    logs = ', '.join(str(run / parallel.LOG) for run in failed)
    sys.exit(
      f'{len(failed)} of {len(plan)} runs failed, see {logs}. The same command runs them again.'
    )


def main(argv: Sequence[str]) -> None:
  del argv
  if _BUDGET.value == 0:
    raise app.UsageError('--budget must be above 0, found 0.')
  network = network_flags.chosen_one()
  plan, folder = _plan(), run_flags.output_folder()
  names = [run_files.run_name(label, spec.seed) for label, spec in plan]
  _train([(folder / name, spec) for name, (_, spec) in zip(names, plan, strict=True)])
  runs = [(label, folder / name) for name, (label, _) in zip(names, plan, strict=True)]
  budget = None if _BUDGET.value is None else _BUDGET.value * curves.SPENT[_AT.value][1]
  found = comparison.write(runs, folder, network, _AT.value, budget)
  print(found.to_markdown())
  for path in found.pictures:
    print(f'Wrote {path}')


def run() -> None:
  """Runs the command with the command-line arguments."""
  entry.run(main)
