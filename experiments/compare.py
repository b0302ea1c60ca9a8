"""Trains several methods on the same client samples and prints one table.

  python -m experiments.compare --task=digits --methods=fed_avg,lbgm --seeds=1,2 \\
    --output_dir=DIR

A method may change single flags for itself: `lbgm:lbgm_threshold=0.4`, or
`fed_avg:uplink=error_feedback(top_k(0.1))`. Each run goes to DIR/METHOD-seedN. DIR/table.csv has
a row for each run and DIR/summary.csv one for each method, with means and 95 % intervals over
seeds; both are also written as .parquet and .md, plots to DIR/plots, and all of it, interactive,
to DIR/report.html. The same command goes on with a comparison that was interrupted.
"""

from collections.abc import Sequence
import dataclasses
import pathlib
import sys
from urllib import parse

from absl import app
from absl import flags

from experiments import entry
from experiments import flag_groups
from experiments import float_flags
from experiments import network_flags
from experiments import parallel
from experiments import runner
from experiments import saving
from experiments import seeds_flag
from experiments import specs
from experiments.reports import curves
from experiments.reports import freezing_plots
from experiments.reports import plots
from experiments.reports import report
from experiments.reports import table as table_lib
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import network as network_lib

_METHODS = flags.DEFINE_string(
  'methods', 'fed_avg,lbgm', 'What to compare: METHOD[:FLAG=VALUE[:FLAG=VALUE...]], by commas.'
)
_AT = flags.DEFINE_enum(
  'at',
  'rounds',
  list(curves.SPENT),
  'What the runs are compared at equal amounts of: each by its last evaluation within --budget.',
)
_BUDGET = float_flags.define(
  'budget',
  None,
  'Rounds, 10^6 bytes in both directions, or simulated seconds, by --at; without it, what the run '
  'that spent least had spent in all.',
  lower_bound=0,
)
_JOBS = flags.DEFINE_integer(
  'jobs',
  1,
  'Runs at the same time, each in a process of its own with its output in its log.txt; 1 runs '
  'one after the other in this process.',
  lower_bound=1,
)


def parse_method(text: str) -> tuple[str, dict[str, object]]:
  """The method and the flags it sets for itself; raises UsageError if they do not exist."""
  method, *settings = text.split(':')
  if method not in specs.METHOD_FLAGS:
    raise app.UsageError(
      f'--methods: expected some of {", ".join(specs.METHOD_FLAGS)}, found {method!r}.'
    )
  overrides = {}
  for setting in settings:
    name, equals, value = setting.partition('=')
    if not equals:
      raise app.UsageError(f'--methods: expected FLAG=VALUE in {text!r}, found {setting!r}.')
    overrides[name] = flag_groups.parse_override(name, value)
    owner = [m for m, names in specs.METHOD_FLAGS.items() if name in names]
    if owner and method not in owner:
      raise app.UsageError(f'--methods: {name} does nothing under {method}.')
  return method, overrides


def run_name(label: str, seed: int) -> str:
  """The name of a run's folder: METHOD-seedN, with what may have a meaning in paths as %HH."""
  return f'{parse.quote(label, safe=" :=(),+", errors="surrogatepass")}-seed{seed}'


def _plan() -> list[tuple[str, specs.RunSpec]]:
  """Label and spec of each run; raises UsageError if the flags make none."""
  labels = flag_groups.split_at_commas(_METHODS.value)
  if len(set(labels)) < len(labels):
    raise app.UsageError(f'--methods: expected different methods, found {_METHODS.value!r}.')
  parsed = [parse_method(label) for label in labels]
  flag_groups.check_method_flags([method for method, _ in parsed])
  plan = [
    (label, flag_groups.run_spec(method, overrides | dict(seed=seed)))
    for seed in seeds_flag.chosen()
    for label, (method, overrides) in zip(labels, parsed, strict=True)
  ]
  flag_groups.check_family_flags([spec for _, spec in plan])
  return plan


def _train(plan: Sequence[tuple[pathlib.Path, specs.RunSpec]]) -> None:
  """Trains what is not complete; exits with status 1 if runs in other processes failed."""
  how = saving.from_flags()
  if _JOBS.value == 1:
    for run, spec in plan:
      runner.train(spec, run, run.name, how)
    return
  arguments = [f'--{name}={value}' for name, value in dataclasses.asdict(how).items()]
  commands = {
    run: [*flag_groups.to_arguments(spec), *arguments]
    for run, spec in plan
    if not runner.is_complete(spec, run)
  }
  failed = parallel.train_all(commands, _JOBS.value)
  if failed:
    logs = ', '.join(str(run / parallel.LOG) for run in failed)
    sys.exit(f'{len(failed)} of {len(plan)} runs failed, see {logs}. The same command tries again.')


def _write_reports(
  runs: Sequence[tuple[str, pathlib.Path]], folder: pathlib.Path, network: network_lib.Network
) -> None:
  if _BUDGET.value is None:
    budget = curves.cheapest(_AT.value, [curves.read_curve(run, network) for _, run in runs])
  else:
    budget = curves.Budget(_AT.value, _BUDGET.value * curves.SPENT[_AT.value][1])
  table = table_lib.build_table(runs, network, budget)
  summary = table_lib.build_summary(table)
  for name, rows in dict(table=table, summary=summary).items():
    contents = dict(
      csv=rows.to_csv(index=False).encode(),
      parquet=rows.to_parquet(index=False),
      md=table_lib.to_markdown(rows, budget).encode(),
    )
    for suffix, content in contents.items():
      file_operations.replace(folder / f'{name}.{suffix}', content)
  named = {run.name: run for _, run in runs}
  drawn = plots.plot_accuracy(named, folder / 'plots')
  drawn += freezing_plots.plot_comparison(named, folder / 'plots')
  drawn.append(report.write_comparison(runs, folder / report.FILE, network, budget))
  print(table_lib.to_markdown(table, budget))
  if table['seed'].nunique() > 1:
    print(table_lib.to_markdown(summary, budget))
  for path in drawn:
    print(f'Wrote {path}')


def main(argv: Sequence[str]) -> None:
  del argv
  if _BUDGET.value == 0:
    raise app.UsageError('--budget must be above 0, found 0.')
  network = network_flags.chosen_one()
  plan, folder = _plan(), flag_groups.output_folder()
  names = [run_name(label, spec.seed) for label, spec in plan]
  _train([(folder / name, spec) for name, (_, spec) in zip(names, plan, strict=True)])
  runs = [(label, folder / name) for name, (label, _) in zip(names, plan, strict=True)]
  _write_reports(runs, folder, network)


if __name__ == '__main__':
  entry.run(main)
