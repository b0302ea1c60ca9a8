"""Trains one method on one task.

  tff-lowrank train --flagfile=experiments/presets/NAME.flags --output_dir=DIR

writes DIR/run.json, metrics.csv, ledger.parquet, SHA256SUMS of these, model.keras (for factorised
models also model_composed.keras with ordinary layers), tensorboard/, plots/, report.html and
checkpoints/. The same command resumes an interrupted run; with more --rounds, it continues a
finished run.
"""

from collections.abc import Sequence

from tff_lowrank.cli import entry
from tff_lowrank.cli import method_flag
from tff_lowrank.cli import run_flags
from tff_lowrank.cli import saving_flags
from tff_lowrank.reports import summary
from tff_lowrank.runs import runner


def main(argv: Sequence[str]) -> None:
  del argv
  spec = run_flags.run_spec(method_flag.chosen())
  run_flags.check_family_flags([spec])
  folder = run_flags.output_folder()
  if runner.train(spec, folder, spec.method, saving_flags.chosen()):
    print(summary.sentence(folder))


def run() -> None:
  """Runs the command with the command-line arguments."""
  entry.run(main)
