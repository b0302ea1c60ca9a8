"""Trains several methods on the same client samples and prints one table.

  python -m experiments.compare --task=digits --methods=fed_avg,lbgm --seeds=1,2 \\
    --output_dir=DIR

A method may change single flags for itself: `lbgm:lbgm_threshold=0.4`, or
`fed_avg:uplink=error_feedback(top_k(0.1))`. Each run goes to DIR/METHOD-seedN; the table to
DIR/table.csv and DIR/table.md, the plots to DIR/plots. The same command goes on with a comparison
that was interrupted.
"""

from collections.abc import Sequence
from urllib import parse

from absl import app
from absl import flags

from experiments import entry
from experiments import flag_groups
from experiments import runner
from experiments import saving
from experiments import specs
from experiments.reports import freezing_plots
from experiments.reports import plots
from experiments.reports import table as table_lib
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import network as network_lib

_METHODS = flags.DEFINE_string(
  'methods', 'fed_avg,lbgm', 'What to compare: METHOD[:FLAG=VALUE[:FLAG=VALUE...]], by commas.'
)
_SEEDS = flags.DEFINE_list('seeds', '1', 'Each method runs once with each seed.')


def split_methods(text: str) -> list[str]:
  """The methods of `--methods`: cut at commas, but not at those in parentheses."""
  labels, depth = [''], 0
  for character in text:
    depth += (character == '(') - (character == ')')
    if character == ',' and depth == 0:
      labels.append('')
    else:
      labels[-1] += character
  return [label.strip() for label in labels]


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


def _parse_seeds(texts: Sequence[str]) -> list[int]:
  if not texts or not all(text.isdecimal() for text in texts):
    raise app.UsageError(f'--seeds: expected whole numbers by commas, found {",".join(texts)!r}.')
  return [int(text) for text in texts]


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  if flag_groups.given('seed'):
    raise app.UsageError('--seed does nothing here; use --seeds.')
  labels = split_methods(_METHODS.value)
  if len(set(labels)) < len(labels):
    raise app.UsageError(f'--methods: expected different methods, found {_METHODS.value!r}.')
  parsed = [parse_method(label) for label in labels]
  flag_groups.check_method_flags([method for method, _ in parsed])
  folder = flag_groups.output_folder()
  plan = [
    (label, flag_groups.run_spec(method, overrides | dict(seed=seed)))
    for seed in _parse_seeds(_SEEDS.value)
    for label, (method, overrides) in zip(labels, parsed, strict=True)
  ]
  flag_groups.check_family_flags([spec for _, spec in plan])
  runs = [(label, folder / run_name(label, spec.seed)) for label, spec in plan]
  for (label, spec), (_, run) in zip(plan, runs, strict=True):
    runner.train(spec, run, f'{label}-seed{spec.seed}', saving.from_flags())
  table = table_lib.build_table(runs, network_lib.Network())
  markdown = table_lib.to_markdown(table)
  for name, text in (('table.csv', table.to_csv(index=False)), ('table.md', markdown)):
    file_operations.replace(folder / name, text.encode())
  named = {run.name: run for _, run in runs}
  drawn = plots.plot_accuracy(named, folder / 'plots')
  drawn += freezing_plots.plot_comparison(named, folder / 'plots')
  print(markdown)
  for path in drawn:
    print(f'Wrote {path}')


if __name__ == '__main__':
  entry.run(main)
