"""Searches for good hyper-parameters of a method with Optuna.

  tff-lowrank tune --task=digits --method=lbgm --rounds=20 --trials=30 --output_dir=DIR \\
    --search='client_learning_rate=log:0.001:1,lbgm_threshold=uniform:0:0.8,client_epochs=choice:1|2|5'

Each trial trains once with each of --seeds and is judged by the mean. --objectives=accuracy,bytes
searches for the best trade-offs between final test accuracy and total bytes; --objectives=accuracy
for the best accuracy alone, where --prune ends trials that fall behind. For methods with personal
models, the accuracy is that of these models.

Trials are in DIR/trial-NUMBER, with a run folder for each seed; the study is DIR/study.sqlite.
DIR/trials.csv has one row per trial. DIR/pareto.csv and DIR/pareto.md have the trials that no other
beats in both objectives, with the commands that train them again. DIR/plots/trials.png and
DIR/report.html show them. Trials are compared by their means over seeds, not by intervals. The same
command resumes an interrupted study, with the same trials as without the interruption; with more
--trials, it adds trials.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import hashlib
import json
import logging
import pathlib
import shlex
import sqlite3
from typing import Any, Literal

from absl import app
from absl import flags
import numpy as np
import optuna
import pandas as pd
import sqlalchemy

from tff_lowrank import files
from tff_lowrank import settings as settings_lib
from tff_lowrank.cli import entry
from tff_lowrank.cli import method_flag
from tff_lowrank.cli import run_flags
from tff_lowrank.cli import saving_flags
from tff_lowrank.cli import search_space
from tff_lowrank.cli import seeds_flag
from tff_lowrank.reports import curves
from tff_lowrank.reports import run_files
from tff_lowrank.reports import table
from tff_lowrank.reports import trial_plots
from tff_lowrank.runs import run_folder
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import folder_lock
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import stopping

_SEARCH = flags.DEFINE_string(
  'search',
  None,
  'Flags to search over, separated by commas: FLAG=uniform:LOW:HIGH, FLAG=log:LOW:HIGH or '
  'FLAG=choice:A|B|C.',
)
_TRIALS = flags.DEFINE_integer('trials', 20, 'Total number of trials.', lower_bound=1)
_OBJECTIVES = flags.DEFINE_enum(
  'objectives',
  'accuracy,bytes',
  ('accuracy,bytes', 'accuracy'),
  'Maximise the accuracy, or also minimise the bytes.',
)
_PRUNE = flags.DEFINE_boolean(
  'prune',
  False,
  'End a trial whose accuracy is below the median of earlier trials at the same round.',
)

# Attributes of a study and of a trial.
_SETTINGS = 'settings'
_REASON = 'reason'
_RESULTS = ('final_accuracy', 'total_bytes')
_CHECKSUM = 'sha256'

_EXPECTED = 'an Optuna study in SQLite'
_HINT = 'If the file is deleted, the same command repeats the same trials and reuses their runs'

_DIRECTIONS: dict[str, tuple[Literal['maximize', 'minimize'], ...]] = {
  'accuracy,bytes': ('maximize', 'minimize'),
  'accuracy': ('maximize',),
}
_STATE = optuna.trial.TrialState


def _settings(
  method: str, dimensions: Sequence[search_space.Dimension], seeds: Sequence[int]
) -> dict[str, Any]:
  """All settings that decide the trials; raises UsageError if the flags are invalid."""
  spec = run_flags.run_spec(method, {d.flag: d.first() for d in dimensions})
  run_flags.check_family_flags([spec])
  searched = {'seed', *(d.flag for d in dimensions)}
  fixed = {name: value for name, value in spec.as_dict().items() if name not in searched}
  own = dict(search=_SEARCH.value, objectives=_OBJECTIVES.value, prune=_PRUNE.value)
  return {**fixed, **own, 'seeds': list(seeds)}


@contextlib.contextmanager
def _using(path: pathlib.Path) -> Iterator[None]:
  """Inside, an error of SQLite about the study in `path` becomes a FileError."""
  try:
    yield
  except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as e:
    while not isinstance(e, sqlite3.Error) and (e.__cause__ or e.__context__):
      e = e.__cause__ or e.__context__  # Its message has no SQL statements.
    raise files.FileError(path, _EXPECTED, f'{e}. {_HINT}') from e


def _checksum(trial: optuna.trial.FrozenTrial) -> str:
  """The checksum of a trial's results; its values are among the attributes."""
  attributes = {name: x for name, x in trial.user_attrs.items() if name != _CHECKSUM}
  content = [trial.params, attributes, trial.intermediate_values]
  return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_as_written(trial: optuna.trial.FrozenTrial) -> bool:
  written, values = trial.user_attrs.get(_CHECKSUM), trial.values or []
  results = [trial.user_attrs.get(name) for name in _RESULTS]
  return written is None or (written == _checksum(trial) and values == results[: len(values)])


def _load_study(path: pathlib.Path) -> optuna.Study:
  """The study in `path`, created if it does not exist; raises FileError if it is damaged."""
  directions = _DIRECTIONS[_OBJECTIVES.value]
  pruner = optuna.pruners.MedianPruner() if _PRUNE.value else optuna.pruners.NopPruner()
  path.touch()
  with files.reading(path, _EXPECTED), _using(path):
    storage = optuna.storages.RDBStorage(
      # Not by URL, since some characters of file names are special there.
      'sqlite://',
      engine_kwargs=dict(creator=functools.partial(sqlite3.connect, path.absolute())),
    )
    study = optuna.create_study(
      study_name='study',
      storage=storage,
      directions=directions,
      pruner=pruner,
      load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False):
      if not _is_as_written(trial):
        found = f'another trial {trial.number}: its checksum differs. {_HINT}'
        raise files.FileError(path, 'what was written', found)
  return study


def _open_study(path: pathlib.Path, settings: Mapping[str, Any]) -> optuna.Study:
  """The study in `path`, new or resumed; raises MismatchError if it has other settings."""
  study = _load_study(path)
  before = study.user_attrs.get(_SETTINGS, settings)
  differing = [
    f'--{name} is {before.get(name)} there and {settings.get(name)} here'
    for name in sorted({*before, *settings})
    if before.get(name) != settings.get(name)
  ]
  if differing:
    raise manifest.MismatchError(
      f'{path.parent} contains another study: {", ".join(differing)}. Use these flags, or another '
      '--output_dir.'
    )
  study.set_user_attr(_SETTINGS, settings)
  # The folder is locked, so no process runs these trials any more. They are queued again.
  for trial in study.get_trials(deepcopy=False, states=[_STATE.RUNNING]):
    study.tell(trial.number, state=_STATE.FAIL)
  return study


def _settle(study: optuna.Study, trial: optuna.Trial, **outcome: Any) -> None:
  """Ends a trial as `study.tell` does, and stores a checksum of it."""
  stored = study.get_trials(deepcopy=False)[trial.number]
  trial.set_user_attr(_CHECKSUM, _checksum(stored))
  study.tell(trial, **outcome)


def _settled(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
  """The trials that ended, in order; the user sees their position here as their number."""
  return [
    t
    for t in study.get_trials(deepcopy=False)
    if t.state in (_STATE.COMPLETE, _STATE.PRUNED) or _REASON in t.user_attrs
  ]


def _rows_before(spec: spec_lib.RunSpec, run: pathlib.Path) -> list[dict[str, Any]]:
  """The rows of metrics that a run has already saved."""
  rows = curves.read_metrics(run) if run_folder.is_complete(spec, run) else None
  rows = run_files.read_saved_metrics(run) if rows is None else rows
  return [] if rows is None else rows.to_dict('records')


class _Trial:
  """Trains one trial with every seed."""

  def __init__(self, trial: optuna.Trial, folder: pathlib.Path):
    self._trial, self._folder = trial, folder
    self._last_step = 0

  def _has_fallen_behind(self, column: str, offset: int, row: Mapping[str, Any]) -> bool:
    """Reports a row of metrics, if it is new, and asks the pruner."""
    step = offset + int(row['round'])
    if not _PRUNE.value or pd.isna(row[column]) or step <= self._last_step:
      return False
    self._last_step = step
    self._trial.report(float(row[column]), step)
    return self._trial.should_prune()

  def _train(self, spec: spec_lib.RunSpec, offset: int) -> tuple[float, int]:
    """Final accuracy and total bytes; `offset` is added to the reported round numbers."""
    run = self._folder / f'seed{spec.seed}'
    column = 'eval_personal_accuracy' if spec.record.is_personal else 'eval_accuracy'
    is_enough = functools.partial(self._has_fallen_behind, column, offset)
    if any(is_enough(row) for row in _rows_before(spec, run)):
      raise optuna.TrialPruned
    try:
      runner.train(spec, run, f'{self._folder.name}-{run.name}', saving_flags.chosen(), is_enough)
    except stopping.Stopped as e:
      if e.signal_number is None:
        raise optuna.TrialPruned from e
      raise
    metrics = curves.read_metrics(run)
    return curves.last(metrics[column]), int(metrics['bytes'].iloc[-1])

  def train(self, plan: Sequence[spec_lib.RunSpec]) -> tuple[float, float]:
    """Mean final accuracy and total bytes over the specs of `plan`; raises TrialPruned."""
    results = [self._train(spec, i * spec.rounds) for i, spec in enumerate(plan)]
    accuracy, total_bytes = np.mean(results, axis=0)
    return float(accuracy), float(total_bytes)


def _run_trial(
  study: optuna.Study,
  method: str,
  dimensions: Sequence[search_space.Dimension],
  seeds: Sequence[int],
  folder: pathlib.Path,
) -> None:
  number = len(_settled(study))
  # Depends only on the trial, so that a resumed study has the same trials.
  seed = int(np.random.default_rng([seeds[0], number]).integers(2**31))
  study.sampler = optuna.samplers.TPESampler(seed=seed)
  trial = study.ask()
  overrides = {d.flag: d.suggest(trial) for d in dimensions}
  print(f'Trial {number}: {", ".join(f"{n}={v}" for n, v in overrides.items())}', flush=True)
  try:
    plan = [run_flags.run_spec(method, overrides | dict(seed=seed)) for seed in seeds]
    accuracy, total_bytes = _Trial(trial, folder / f'trial-{number:04}').train(plan)
    if np.isnan(accuracy):
      raise settings_lib.SettingError('The accuracy is NaN.')
  except (
    settings_lib.SettingError
  ) as e:  # The settings contradict each other or do not fit the data.
    trial.set_user_attr(_REASON, str(e))
    _settle(study, trial, state=_STATE.FAIL)
    print(f'Trial {number} failed: {e}')
  except optuna.TrialPruned:
    _settle(study, trial, state=_STATE.PRUNED)
    print(f'Trial {number} was pruned.')
  else:
    results = [accuracy, total_bytes]
    for name, value in zip(_RESULTS, results, strict=True):
      trial.set_user_attr(name, value)
    _settle(study, trial, values=results[: len(study.directions)])
    print(f'Trial {number}: accuracy {accuracy:.4f}, {total_bytes / 1e6:.3f} MB')


def _trials_table(study: optuna.Study) -> pd.DataFrame:
  """One row per trial: `trial`, `state`, the flags searched over, accuracy, bytes and `reason`."""
  best = {trial.number for trial in study.best_trials}
  rows = [
    dict(
      trial=number,
      state=trial.state.name.lower(),
      **trial.params,
      **{name: trial.user_attrs.get(name) for name in _RESULTS},
      reason=trial.user_attrs.get(_REASON),
      is_best=trial.number in best,
    )
    for number, trial in enumerate(_settled(study))
  ]
  return pd.DataFrame(rows)


def _command(
  method: str, params: Mapping[str, Any], seeds: Sequence[int], folder: pathlib.Path
) -> str:
  """The command that trains a trial again, into `folder`."""
  values = {name: run_flags.parse_value(name, str(value)) for name, value in params.items()}
  arguments = run_flags.to_arguments(run_flags.run_spec(method, values))
  kept = [a for a in arguments if not a.startswith(('--method=', '--seed='))]
  return shlex.join(
    ['tff-lowrank', 'compare', f'--methods={method}',
     f'--seeds={",".join(map(str, seeds))}', *kept, f'--output_dir={folder}']
  )  # fmt: skip


def _write_tables(
  study: optuna.Study, method: str, seeds: Sequence[int], folder: pathlib.Path
) -> str:
  """Writes the tables of trials, and returns the best ones as Markdown."""
  trials = _trials_table(study)
  written = {'trials.csv': trials.drop(columns='is_best').to_csv(index=False)}
  best = trials[trials['is_best']].drop(columns=['state', 'reason', 'is_best'])
  settled = _settled(study)
  best['command'] = [
    _command(method, settled[n].params, seeds, folder / 'again' / f'trial-{n:04}')
    for n in best['trial']
  ]
  best = best.sort_values('total_bytes')
  written['pareto.csv'] = best.to_csv(index=False)
  texts = best.drop(columns='command').assign(
    final_accuracy=best['final_accuracy'].map('{:.4f}'.format),
    total_bytes=(best['total_bytes'] / 1e6).map('{:.3f} MB'.format),
  )
  commands = '\n'.join(
    f'# trial {n}\n{c}' for n, c in zip(best['trial'], best['command'], strict=True)
  )
  text = f'{table.markdown(texts.astype(str))}\n```sh\n{commands}\n```\n'
  written['pareto.md'] = text
  for name, content in written.items():
    # Arguments of the command line may have bytes that are not UTF-8.
    file_operations.replace(folder / name, content.encode(errors='surrogateescape'))
  return text


def _draw(
  study: optuna.Study, method: str, seeds: Sequence[int], folder: pathlib.Path
) -> list[pathlib.Path]:
  """Plots all trials, with the name of the runs' metric."""
  runs = (path.parent for path in folder.glob(f'trial-*/seed*/{run_files.RECORD}'))
  metric = curves.metric([*runs][:1])
  about = f'{method}, searched over {_SEARCH.value}; {len(seeds)} seeds per trial.'
  return trial_plots.plot_search(_trials_table(study), folder, metric, about)


def main(argv: Sequence[str]) -> None:
  del argv
  if not _SEARCH.value:
    raise app.UsageError('--search: expected the flags to search over, found none; see --help.')
  if _PRUNE.value and _OBJECTIVES.value != 'accuracy':
    raise app.UsageError(
      f'--prune does not work with --objectives={_OBJECTIVES.value}: Optuna can prune only '
      'with one objective. Use --objectives=accuracy.'
    )
  method, seeds = method_flag.chosen(), seeds_flag.chosen()
  dimensions = search_space.parse(_SEARCH.value, method)
  settings = _settings(method, dimensions, seeds)
  folder = run_flags.output_folder()
  folder.mkdir(parents=True, exist_ok=True)
  optuna.logging.set_verbosity(logging.WARNING)
  with folder_lock.FolderLock(folder):
    path = folder / 'study.sqlite'
    with _using(path):
      study = _open_study(path, settings)
      while len(_settled(study)) < _TRIALS.value:
        _run_trial(study, method, dimensions, seeds, folder)
        _write_tables(study, method, seeds, folder)
      best = _write_tables(study, method, seeds, folder)
      drawn = _draw(study, method, seeds, folder)
  print(f'\n{best}')
  for path in (folder / 'pareto.md', *drawn):
    print(f'Wrote {path}')


def run() -> None:
  """Runs the command with the command-line arguments."""
  entry.run(main)
