"""Trains one method on one task.

  python -m experiments.train --flagfile=experiments/presets/NAME.flags --output_dir=DIR

writes DIR/run.json, metrics.csv, ledger.parquet, SHA256SUMS of these, tensorboard/, plots/,
report.html and checkpoints/. The same command goes on with a run that was interrupted, and one
with more --rounds with a complete run.
"""

from collections.abc import Sequence

from experiments import entry
from experiments import flag_groups
from experiments import method_flag
from experiments import runner
from experiments import saving


def main(argv: Sequence[str]) -> None:
  del argv
  spec = flag_groups.run_spec(method_flag.chosen())
  flag_groups.check_family_flags([spec])
  folder = flag_groups.output_folder()
  if runner.train(spec, folder, spec.method, saving.from_flags()):
    print(f'Wrote {folder}')


if __name__ == '__main__':
  entry.run(main)
