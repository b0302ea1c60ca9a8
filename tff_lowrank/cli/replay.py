"""Computes the simulated time of recorded runs on other networks, from their ledgers.

  tff-lowrank replay --runs=runs/demo --uplink_mbps=3,50 --downlink_mbps=9,100 \\
    --latency_ms=20 --compute_seconds=0.5 --csv=replay.csv

Nothing is trained. --runs are folders of runs or of comparisons, separated by commas. Prints one
row per run and network, and writes the table to --csv.
"""

from collections.abc import Sequence
import pathlib

from absl import app
from absl import flags
import pandas as pd

from tff_lowrank import files
from tff_lowrank.cli import entry
from tff_lowrank.cli import float_flags
from tff_lowrank.cli import network_flags
from tff_lowrank.cli import path_flag
from tff_lowrank.reports import curves
from tff_lowrank.reports import run_files
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import network as network_lib

_RUNS = flags.DEFINE_string('runs', None, 'Folders of runs or comparisons, separated by commas.')
_COMPUTE_SECONDS = float_flags.define(
  'compute_seconds',
  0.0,
  'Computation time of each client in each of its rounds, in seconds.',
  lower_bound=0,
)
_CSV = path_flag.define('csv', None, 'File to write the table to.')


def find_runs(text: str) -> list[pathlib.Path]:
  """The run folders in `--runs`; those in the folder of a comparison, sorted by name.

  Names may contain commas. Raises UsageError if a folder does not exist.
  """
  found, start = [], 0
  parts = text.split(',')
  while start < len(parts):
    # The longest name that exists.
    for end in range(len(parts), start, -1):
      folder = pathlib.Path(path_flag.expand(','.join(parts[start:end])))
      runs = (
        [folder]
        if (folder / 'run.json').exists()
        else sorted(path.parent for path in folder.glob('*/run.json'))
      )
      if runs:
        break
    else:
      raise app.UsageError(
        f'--runs: expected folders with run.json, or of such folders, found {parts[start]!r}.'
      )
    found += runs
    start = end
  return found


def replay(
  run: pathlib.Path, network: network_lib.Network, compute_seconds: float
) -> dict[str, object]:
  """A row of the table; raises FileError if a file of the run cannot be used."""
  run_files.check(run)
  try:
    curve = curves.read_curve(run, network, compute_seconds)
  except FileNotFoundError as e:
    raise files.FileError(run, 'the folder of a run', f'one without rounds to replay: {e}') from e
  flags_of_run = curves.read_record(run)['flags']
  last = curve.iloc[-1]
  return dict(
    run=str(run),
    method=flags_of_run['method'],
    seed=flags_of_run['seed'],
    uplink_mbps=network.uplink_mbps,
    downlink_mbps=network.downlink_mbps,
    latency_ms=1000 * network.latency_seconds,
    compute_seconds=compute_seconds,
    rounds=int(last['rounds']),
    total_bytes=int(last['bytes']),
    final_accuracy=curves.last(curve['eval_accuracy']),
    simulated_seconds=round(last['seconds'], 3),
  )


def main(argv: Sequence[str]) -> None:
  del argv
  if not _RUNS.value:
    raise app.UsageError('--runs: expected folders of runs, found none.')
  runs, networks = find_runs(_RUNS.value), network_flags.chosen()
  table = pd.DataFrame(
    [replay(run, network, _COMPUTE_SECONDS.value) for network in networks for run in runs]
  )
  print(table.to_string(index=False))
  if _CSV.value:
    content = table.to_csv(index=False).encode(errors='surrogateescape')
    file_operations.replace(pathlib.Path(_CSV.value), content)
    print(f'Wrote {_CSV.value}')


def run() -> None:
  """Runs the command with the command-line arguments."""
  entry.run_without_tff(main)
