"""Computes the principal components of gradients during training: LBGM's paper, section 2.

  tff-lowrank gradient-space --task=digits --setting=central --rounds=60 --output_dir=DIR
  tff-lowrank gradient-space --task=digits --setting=federated --output_dir=DIR

trains with FedAvg and analyses accumulated gradients: the initial model minus the trained model of
each round. With --setting=central, a single client has all data, and a round is an epoch. With
--setting=federated, these are the mean update of each round, and the updates of single clients in
the rounds that they take part in. Each is analysed as it is and with the momentum of the paper's
scripts.

Writes DIR/components.csv (N95 and N99 by round, for each tensor and the whole model), metrics.csv,
gradient_space.npz (see `tff_lowrank.reports.gradient_plots`), run.json and plots/.
"""

from collections.abc import Sequence
import io
import pathlib
from typing import Any

from absl import app
from absl import flags
import numpy as np
import pandas as pd
import tqdm

from tff_lowrank import methods
from tff_lowrank.analysis import gradient_space
from tff_lowrank.analysis import replay
from tff_lowrank.cli import entry
from tff_lowrank.cli import run_flags
from tff_lowrank.models import weight_names
from tff_lowrank.reports import gradient_plots
from tff_lowrank.runs import provenance
from tff_lowrank.runs import recording
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import file_operations

_SETTING = flags.DEFINE_enum(
  'setting',
  'federated',
  ('federated', 'central'),
  'Whether one client has all data (central) or not; see above.',
)
_WATCHED_CLIENTS = flags.DEFINE_integer(
  'watched_clients',
  5,
  'Number of clients to analyse, the first by name; 0: all. Needs memory for one model per round '
  'and analysed client, and one more model per participating client.',
  lower_bound=0,
)

# Flags that --help does not show.
UNUSED = (*recording.UNUSED, *run_flags.of_other_methods([methods.BASELINE.name]))
_OF_FEDERATED = ('clients_per_round', 'num_clients', 'partition', 'watched_clients')


class _Study:
  """The histories of the analysed gradients, filled round by round."""

  def __init__(self, clients: Sequence[str], tensors: Sequence[str]):
    """For these clients and the mean of all; `tensors` are the names of the trainable weights."""
    names = [gradient_plots.MEAN, *clients]
    self._tensors = tensors
    self._histories = {name: gradient_space.History() for name in names}
    self._rounds: dict[str, list[int]] = {name: [] for name in names}
    self._shapes: list[tuple[int, ...]] = []
    self._metrics: list[dict[str, float]] = []

  def add(self, done: replay.Round, measured: recording.Measured) -> None:
    """Adds a round."""
    self._shapes = [x.shape for x in done.after]
    studied = dict(done.updates)
    if studied:
      studied[gradient_plots.MEAN] = replay.weighted_mean(done.updates, done.weights)
    for name, update in studied.items():
      if name in self._histories:
        self._histories[name].add(update)
        self._rounds[name].append(done.number)
    if measured.evaluated is not None:
      evaluated = {f'eval_{name}': value for name, value in measured.evaluated.items()}
      self._metrics.append(dict(round=done.number) | evaluated)

  def write(self, folder: pathlib.Path) -> None:
    """Writes gradient_space.npz, components.csv and metrics.csv."""
    histories = {name: history for name, history in self._histories.items() if len(history)}
    arrays = dict(
      names=np.array(list(histories)),
      tensors=np.array(self._tensors),
      shapes=np.array([str(list(s)) for s in self._shapes]),
    )
    for i, (name, history) in enumerate(histories.items()):
      spaces = history.spaces()
      arrays[f'rounds_{i}'] = np.array(self._rounds[name])
      arrays[f'gram_{i}'] = np.stack([space.gram for space in spaces])
      arrays[f'sums_{i}'] = np.stack([space.sums for space in spaces])
      arrays['sizes'] = np.array([space.size for space in spaces])
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    file_operations.replace(folder / gradient_plots.FILE, content.getvalue())
    for name, table in {
      'metrics.csv': pd.DataFrame(self._metrics),
      gradient_plots.COMPONENTS: gradient_plots.components(folder),
    }.items():
      file_operations.replace(folder / name, table.to_csv(index=False).encode())


def _spec(setting: str) -> spec_lib.RunSpec:
  run_flags.check_method_flags([methods.BASELINE.name])
  run_flags.check_unused(recording.UNUSED)
  if setting == 'federated':
    return run_flags.run_spec(methods.BASELINE.name)
  for name in _OF_FEDERATED:
    if run_flags.given(name):
      raise app.UsageError(
        f'--{name} has no effect with --setting=central: one client has all data.'
      )
  return run_flags.run_spec(
    methods.BASELINE.name, dict(num_clients=1, clients_per_round=0, partition='iid')
  )


def _record_of(spec: spec_lib.RunSpec) -> dict[str, Any]:
  return spec.as_dict() | dict(setting=_SETTING.value, watched_clients=_WATCHED_CLIENTS.value)


def main(argv: Sequence[str]) -> None:
  del argv
  spec = _spec(_SETTING.value)
  run_flags.check_family_flags([spec])
  folder = run_flags.output_folder()
  folder.mkdir(parents=True, exist_ok=True)
  with provenance.recorded(folder / 'run.json', _record_of(spec)):
    task = runner.build_task(spec)
    clients = task.train.client_ids
    watched = clients[: _WATCHED_CLIENTS.value or len(clients)]
    tensors = weight_names.trainable(task.keras_model_fn())
    study = _Study([] if _SETTING.value == 'central' else watched, tensors)
    with tqdm.tqdm(total=spec.rounds, unit='round', disable=None) as progress:

      def on_round(done: replay.Round, measured: recording.Measured) -> None:
        study.add(done, measured)
        progress.update()

      recording.record(spec, task, on_round)
    study.write(folder)
    drawn = gradient_plots.plot(folder, folder / 'plots')
  print(gradient_plots.to_markdown(folder))
  for path in drawn:
    print(f'Wrote {path}')


def run() -> None:
  """Runs the command with the command-line arguments."""
  entry.run(main)
