"""Predicts how many bytes each method would save, from a short training run with FedAvg.

  tff-lowrank advise --task=digits --rounds=30 --output_dir=DIR [--measure]

trains --rounds with FedAvg, records all client updates, and computes what each method would have
sent for them: LBGM and APF at several thresholds, and codecs. For FedPara it follows from the size
of the model. The error of a setting is the fraction of the energy (squared norm) of the mean
updates that it would have lost. For each method, the setting that saves most with an error of at
most --tolerance is suggested. The loss of accuracy is not predicted: --measure also trains with
each setting for the same number of rounds, and does not suggest settings whose accuracy is lower
than FedAvg's by more than --max_accuracy_loss. All updates are kept in memory: two models for each
client in each round.

Writes DIR/advice.csv and advice.md (one row per setting), layers.csv (one row per tensor),
plots/savings.png (predicted and measured savings) and run.json.
"""

import collections
from collections.abc import Callable, Iterator, Sequence
import pathlib
from typing import Any, NamedTuple

from absl import app
from absl import flags
import numpy as np
import pandas as pd
import tqdm

from tff_lowrank import methods
from tff_lowrank import objectives
from tff_lowrank import tasks
from tff_lowrank.analysis import gradient_space
from tff_lowrank.analysis import replay
from tff_lowrank.cli import entry
from tff_lowrank.cli import float_flags
from tff_lowrank.cli import run_flags
from tff_lowrank.models import weight_names
from tff_lowrank.reports import advice_plots
from tff_lowrank.reports import advice_table
from tff_lowrank.reports import curves
from tff_lowrank.runs import errors
from tff_lowrank.runs import provenance
from tff_lowrank.runs import recording
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import file_operations

_TOLERANCE = float_flags.define(
  'tolerance',
  0.05,
  'Largest fraction of the energy of the mean updates that a suggested setting may lose.',
  lower_bound=0,
  upper_bound=1,
)
_MAX_LOSS = float_flags.define(
  'max_accuracy_loss',
  0.02,
  "How far a suggested setting's accuracy may be below FedAvg's, with --measure.",
  lower_bound=0,
)
_MEASURE = flags.DEFINE_boolean(
  'measure', False, 'Also train with each setting and measure what it saves.'
)

# For each method that is tried: the name of a setting, and its values.
TRIED = {name: record.tried for name, record in methods.METHODS.items() if record.tried}
_NAMES = ('model_family', *(name for name, _ in TRIED.values()))
# Flags that --help does not show.
UNUSED = (
  *recording.UNUSED,
  *_NAMES,
  *spec_lib.FAMILY_SETTINGS,
  *run_flags.of_other_methods(list(TRIED)),
)


class _Candidate(NamedTuple):
  """A value to try for a setting of a method, and the run with it."""

  method: str
  setting: str
  spec: spec_lib.RunSpec


def _check_flags() -> None:
  run_flags.check_method_flags(list(TRIED))
  run_flags.check_unused(recording.UNUSED)
  for name in _NAMES:
    if run_flags.given(name):
      raise app.UsageError(f'--{name} has no effect here: advise tries several values of it.')


def _candidates() -> Iterator[_Candidate]:
  for method, (name, values) in TRIED.items():
    for value in values:
      yield _Candidate(method, f'{name}={value}', run_flags.run_spec(method, {name: value}))


def _saved(spent: float, reference: float) -> float:
  return 1 - spent / reference if reference else 0.0


def _predict(candidate: _Candidate, rounds: list[replay.Round], model_bytes: int) -> dict[str, Any]:
  """A row of the advice, as fractions of FedAvg's bytes; `late_` is for the last half."""
  spec = candidate.spec
  replay_rounds = spec.record.replay
  assert replay_rounds is not None  # As it is tried.
  replayed = replay_rounds(spec.choice, rounds)
  plain = np.array([len(done.updates) * model_bytes for done in rounds])
  spent, late = replayed.uplink_bytes + replayed.downlink_bytes, slice(len(rounds) // 2, None)
  return dict(
    method=candidate.method,
    setting=candidate.setting,
    uplink_saved=_saved(replayed.uplink_bytes.sum(), plain.sum()),
    total_saved=_saved(spent.sum(), 2 * plain.sum()),
    late_total_saved=_saved(spent[late].sum(), 2 * plain[late].sum()),
    error=replayed.error,
    frozen=replayed.frozen_fraction[-1] if spec.freezing_settings else None,
  )


def _of_smaller_model(candidate: _Candidate, task: tasks.Task) -> tuple[dict[str, Any], tasks.Task]:
  """The row of a method whose models are factorised, and its task.

  A smaller model saves the same fraction of bytes as of parameters. The error is not known.
  """
  spec = candidate.spec
  smaller = tasks.prepare(
    task, seed=spec.seed, model_family=spec.model_family, gamma=spec.gamma, tanh=spec.tanh
  )
  sizes = [x.keras_model_fn().count_params() for x in (smaller, task)]
  saved = _saved(*sizes)
  savings = {name: saved for name in ('uplink_saved', 'total_saved', 'late_total_saved')}
  row = dict(method=candidate.method, setting=candidate.setting, **savings)
  return row, smaller


def _suggest(table: pd.DataFrame, tolerance: float, max_loss: float) -> np.ndarray:
  """bool: for each method, the setting that saves most with an error of at most `tolerance`.

  If settings were measured, not those whose accuracy is NaN, or below FedAvg's (the first row) by
  more than `max_loss`.
  """
  allowed = table[(table['error'] <= tolerance) & (table['total_saved'] > 0)]
  if 'measured_total_saved' in table:
    lost = table['measured_accuracy'][0] - allowed['measured_accuracy']
    allowed = allowed[lost <= max_loss]
  return table.index.isin(allowed.groupby('method')['total_saved'].idxmax())


def _measure(
  spec: spec_lib.RunSpec, task: tasks.Task, on_round: Callable[[replay.Round], None]
) -> dict[str, Any]:
  """Trains; returns the bytes of uplink and of both directions, and the last accuracy."""
  spent = np.zeros(2, np.int64)
  accuracy = None

  def after(done: replay.Round, measured: recording.Measured) -> None:
    nonlocal accuracy
    spent[:] += measured.uplink_bytes, measured.downlink_bytes
    if measured.evaluated is not None:
      accuracy = measured.evaluated['accuracy']
    on_round(done)

  recording.record(spec, task, after)
  return dict(up=spent[0], total=spent.sum(), accuracy=accuracy)


def _layer_rows(
  rounds: list[replay.Round], spec: spec_lib.RunSpec, names: Sequence[str]
) -> Iterator[dict[str, Any]]:
  """One row per tensor, which explains the advice."""
  means = [replay.weighted_mean(done.updates, done.weights) for done in rounds if done.updates]
  history = gradient_space.History()
  by_client: dict[str, gradient_space.History] = {}
  for mean in means:
    history.add(mean)
  for done in rounds:
    for client, update in done.updates.items():
      by_client.setdefault(client, gradient_space.History()).add(update)
  spaces, clients = history.spaces(), [h.spaces() for h in by_client.values()]
  freezing_settings = spec.freezing_settings
  assert freezing_settings is not None
  perturbed = replay.perturbations(freezing_settings, rounds)
  for i, space in enumerate(spaces):
    few, many = (gradient_space.num_components(space, share)[-1] for share in gradient_space.SHARES)
    overlaps = np.concatenate([gradient_space.consecutive_overlaps(c[i]) for c in clients])
    yield dict(
      tensor=names[i],
      shape='x'.join(map(str, means[0][i].shape)) or '1',
      size=space.size,
      n95=few,
      n99=many,
      consecutive_overlap=overlaps.mean() if overlaps.size else np.nan,
      effective_perturbation=perturbed[i],
      rank95=np.mean([replay.spectral_rank(mean[i], 0.95) for mean in means]),
    )


def _write(
  table: pd.DataFrame,
  layer_table: pd.DataFrame,
  objective: objectives.Objective,
  folder: pathlib.Path,
) -> str:
  metric = curves.Metric(**objective.described())
  text = advice_table.to_markdown(table, layer_table, _MAX_LOSS.value, metric)
  for name, content in {
    'advice.csv': table.to_csv(index=False),
    'layers.csv': layer_table.to_csv(index=False),
    'advice.md': text,
  }.items():
    file_operations.replace(folder / name, content.encode())
  advice_plots.plot_savings(table, folder / 'plots' / 'savings.png', metric)
  return text


def _advised(
  candidates: Sequence[_Candidate], task: tasks.Task, rounds: list[replay.Round]
) -> Iterator[tuple[dict[str, Any], spec_lib.RunSpec, tasks.Task]]:
  """Row, run and task of each candidate."""
  model_bytes = sum(x.nbytes for x in rounds[0].before)
  for candidate in candidates:
    if candidate.spec.record.replay is not None:
      yield _predict(candidate, rounds, model_bytes), candidate.spec, task
    else:
      row, smaller = _of_smaller_model(candidate, task)
      yield row, candidate.spec, smaller


def main(argv: Sequence[str]) -> None:
  del argv
  _check_flags()
  base = run_flags.run_spec(methods.BASELINE.name)
  run_flags.check_family_flags([base])
  candidates = [*_candidates()]
  folder = run_flags.output_folder()
  folder.mkdir(parents=True, exist_ok=True)
  used = collections.ChainMap(base.as_dict(), *(c.spec.as_dict() for c in candidates))
  settings = {name: value for name, value in used.items() if name not in _NAMES}
  settings |= {flag.name: flag.value for flag in (_TOLERANCE, _MAX_LOSS, _MEASURE)}
  with provenance.recorded(folder / 'run.json', settings):
    task = runner.build_task(base)
    rounds: list[replay.Round] = []

    def after_round(done: replay.Round) -> None:
      rounds.append(done)
      progress.update()

    trainings = 1 + len(candidates) * _MEASURE.value
    with tqdm.tqdm(total=base.rounds * trainings, unit='round', disable=None) as progress:
      plain = _measure(base, task, after_round)
      rows = [dict(method=base.method, setting='', measured_accuracy=plain['accuracy'])]
      with errors.as_setting_errors():
        advised = [*_advised(candidates, task, rounds)]
      for row, spec, task_of_row in advised:
        rows.append(row)
        if _MEASURE.value:
          found = _measure(spec, task_of_row, lambda done: progress.update())
          row.update(
            measured_uplink_saved=_saved(found['up'], plain['up']),
            measured_total_saved=_saved(found['total'], plain['total']),
            measured_accuracy=found['accuracy'],
          )
    table = pd.DataFrame(rows)
    table['suggested'] = _suggest(table, _TOLERANCE.value, _MAX_LOSS.value)
    freezing = next(c.spec for c in candidates if c.spec.freezing_settings is not None)
    names = weight_names.trainable(task.keras_model_fn())
    layer_table = pd.DataFrame(_layer_rows(rounds, freezing, names))
    print(_write(table, layer_table, task.objective, folder))
  print(f'Wrote {folder}')


def run() -> None:
  """Runs the command with the command-line arguments."""
  entry.run(main)
