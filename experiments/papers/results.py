"""Results of presets: a row per run, and curves; read from files, or from runs of `compare`."""

from collections.abc import Sequence
import pathlib
import shutil
import subprocess
import sys
from typing import NamedTuple

import pandas as pd

from tff_lowrank.reports import gradient_plots
from tff_lowrank.reports import run_files

# Commands are run there: paths in presets are relative to it.
_ROOT = pathlib.Path(__file__).resolve().parents[2]
# The columns of runs' metrics that are kept, as far as a run has them.
_CURVES = (
  'round',
  'eval_accuracy',
  'eval_personal_accuracy',
  'cumulative_uplink_bytes',
  'cumulative_downlink_bytes',
  'frozen_fraction',
  'stability_threshold',
  'effective_perturbation',
)
_KEYS = ['method', 'seed']
# What is kept of a study of gradients.
_STUDY = (gradient_plots.COMPONENTS, gradient_plots.FILE, run_files.METRICS)


class Results(NamedTuple):
  """The results of a preset.

  table: compare's table.csv, with `round_seconds`, the simulated transfer of a mean round, and
    `uplink_saving_percent`, what a run sent less on the uplink than the first method, same seed.
  curves: method, seed and `_CURVES` of each round with an evaluation; None if not recorded.
  """

  table: pd.DataFrame
  curves: pd.DataFrame | None


def _curves_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_name(f'{path.stem}_curves.csv')


def read(path: pathlib.Path, first: str) -> Results | None:
  """Reads the results that `record` wrote; None if there are none. `first`: see `Results`."""
  if not path.exists():
    return None
  runs = pd.read_csv(path)
  if 'simulated_seconds' in runs:
    runs['round_seconds'] = runs['simulated_seconds'] / runs['rounds']
  base = runs[runs['method'] == first].set_index('seed')['uplink_bytes']
  runs['uplink_saving_percent'] = 100 * (1 - runs['uplink_bytes'] / runs['seed'].map(base))
  curves = _curves_path(path)
  return Results(runs, pd.read_csv(curves) if curves.exists() else None)


def _curve(run: pathlib.Path) -> pd.DataFrame:
  """The curve of one run."""
  metrics = run_files.read_metrics(run)
  evaluated = metrics['eval_accuracy'].notna()
  if 'eval_personal_accuracy' in metrics:
    evaluated |= metrics['eval_personal_accuracy'].notna()
  return metrics.loc[evaluated, [name for name in _CURVES if name in metrics]]


def record(folder: pathlib.Path, path: pathlib.Path) -> None:
  """Writes the results in `folder`, an output folder of `compare`, to `path` and a file beside it.

  Runs of the same method and seed that `path` already has are replaced; others are kept.
  """
  runs = pd.read_csv(folder / 'table.csv').drop(columns=['wall_seconds'], errors='ignore')
  runs = runs.drop(columns=[name for name in runs if name.startswith('compared_')])
  curves = pd.concat(
    _curve(folder / run_files.run_name(method, seed)).assign(method=method, seed=seed)
    for method, seed in runs[_KEYS].itertuples(index=False)
  )
  curves = curves[[*_KEYS, *(name for name in _CURVES if name in curves)]].round(6)
  for new, file in ((runs, path), (curves, _curves_path(path))):
    if file.exists():
      old = pd.read_csv(file)
      is_new = pd.MultiIndex.from_frame(old[_KEYS]).isin(pd.MultiIndex.from_frame(new[_KEYS]))
      new = pd.concat([old[~is_new], new])
    new.dropna(axis='columns', how='all').to_csv(file, index=False)


def names_methods(preset: str) -> bool:
  """Whether a preset, or one that it is based on, says which methods to run."""
  text = (_ROOT / preset).read_text()
  based_on = [line.partition('=')[2] for line in text.split() if line.startswith('--flagfile=')]
  return '--methods=' in text or any(map(names_methods, based_on))


def command(binary: str, preset: str, methods: Sequence[str] = ()) -> list[str]:
  """The command that runs a preset, without the folders of data and output.

  `methods` are for presets that name none. Others run all of theirs, since their flags may belong
  to any of them.
  """
  path = f'experiments/presets/{preset}.flags'
  flags = [f'--flagfile={path}']
  if methods and not names_methods(path):
    flags.append(f'--methods={",".join(methods)}')
  return ['python', '-m', f'experiments.{binary}', *flags]


def _call(command: Sequence[str], data_dir: pathlib.Path, folder: pathlib.Path) -> None:
  folders = [f'--data_dir={data_dir}', f'--output_dir={folder}']
  subprocess.run([sys.executable, *command[1:], *folders], check=True)


def run(
  preset: str,
  methods: Sequence[str],
  data_dir: pathlib.Path,
  folder: pathlib.Path,
  path: pathlib.Path,
) -> None:
  """Runs a preset into `folder`, and records the results in `path`.

  `methods` is as for `command`. Finished runs in `folder` are not run again, an interrupted one is
  resumed. Raises CalledProcessError if `compare` fails.
  """
  _call(command('compare', preset, methods), data_dir, folder)
  record(folder, path)


def run_study(
  preset: str, data_dir: pathlib.Path, folder: pathlib.Path, target: pathlib.Path
) -> None:
  """Runs a study of gradients into `folder`, and copies its results to `target`.

  Raises CalledProcessError if `gradient_space` fails.
  """
  _call(command('gradient_space', preset), data_dir, folder)
  target.mkdir(parents=True, exist_ok=True)
  for name in _STUDY:
    shutil.copyfile(folder / name, target / name)
