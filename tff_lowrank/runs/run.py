"""A run as an object: trained here, or read from its folder."""

from collections.abc import Mapping, Sequence
import os
import pathlib
from typing import Any

import pandas as pd

from tff_lowrank import methods
from tff_lowrank import tasks
from tff_lowrank.reports import curves
from tff_lowrank.reports import report
from tff_lowrank.reports import run_files
from tff_lowrank.runs import comparison
from tff_lowrank.runs import model_files
from tff_lowrank.runs import runner
from tff_lowrank.runs import saving as saving_lib
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import network as network_lib


class Run:
  """What a run left in its folder. Files are read when they are asked for.

  All raise FileError if a file cannot be used.
  """

  def __init__(self, folder: str | os.PathLike):
    """Raises FileNotFoundError if `folder` is not that of a run."""
    self.folder = pathlib.Path(folder)
    curves.read_record(self.folder)

  def __repr__(self) -> str:
    return f'Run({str(self.folder)!r})'

  @property
  def record(self) -> dict[str, Any]:
    """What run.json says: `flags`, `versions`, `status` and others."""
    return curves.read_record(self.folder)

  @property
  def settings(self) -> Mapping[str, Any]:
    """Every setting that decides the run's numbers, by name."""
    return self.record['flags']

  @property
  def metrics(self) -> pd.DataFrame:
    """The rows of metrics.csv, a round each."""
    return run_files.read_metrics(self.folder)

  @property
  def ledger(self) -> pd.DataFrame:
    """Of each message and kind of content its size: see `ledger.Ledger`."""
    return curves.read_whole_ledger(self.folder)

  @property
  def report(self) -> pathlib.Path:
    """The page of a run that is complete."""
    return self.folder / report.FILE

  def load_model(self, name: str = 'model') -> Any:
    """The trained Keras model.

    Args:
      name: `'model'`, as it was trained; `'composed'`, with ordinary layers in place of factorised
        ones; `'best'`, as it was trained, of the round with the best evaluation (`keep_best`).

    Raises FileNotFoundError if the run did not save it.
    """
    return model_files.load(self.folder, name)


def train(
  task: str | tasks.Task,
  method: str | methods.Method,
  folder: str | os.PathLike,
  *,
  saving: saving_lib.Saving | None = None,
  **given: Any,
) -> Run:
  """Trains into `folder`, or goes on with what is there, as the binary `train` does.

  The numbers are the binary's to the last digit where the environment has TF_NUM_INTRAOP_THREADS=1
  before TensorFlow starts. TFF's installed context stays as it is; Python's, NumPy's and
  TensorFlow's global random seeds are set.

  Args:
    task: What to learn: a `Task`, the name of one, or `package.module:FUNCTION`.
    method: A `Method`, the name of one in `methods.METHODS`, or `package.module:RECORD`.
    folder: Of this one run; made if needed.
    saving: How it is kept safe.
    **given: Settings by name, of `RunSpec` and of the method: `rounds=60, lbgm_threshold=0.4`.
      `client_learning_rate` may be a function from a client's id to its rate. It is asked once for
      each client; run.json has the rates, and a run goes on with the same ones only.

  Returns:
    The run, complete.

  Raises:
    settings.SettingError: If a setting is none, or settings do not go together.
    manifest.MismatchError: If `folder` holds a run of other settings.
    stopping.Stopped: If Ctrl-C or SIGTERM ended it; the same call goes on from there.
  """
  prepared = None
  if isinstance(task, str):
    spec = spec_lib.make(method, given | dict(task=task))
  else:
    spec = spec_lib.make(method, given, task)
    prepared = runner.prepare_task(spec, task)
  path = pathlib.Path(folder)
  runner.train(spec, path, spec.method, saving or saving_lib.Saving(), task=prepared)
  return Run(path)


def compare(
  runs: Mapping[str, Run] | Sequence[Run],
  folder: str | os.PathLike,
  *,
  network: network_lib.Network | None = None,
  at: str = 'rounds',
  budget: float | None = None,
) -> comparison.Comparison:
  """Compares runs that are complete, and writes tables, plots and report.html.

  Args:
    runs: By label, such as the method with what was set; or a list, whose labels are the methods.
      Runs of one label must have different seeds. Savings are told against runs of FedAvg whose
      label is that method's name.
    folder: Where to; made if needed.
    network: For the simulated time.
    at: What they are compared at equal amounts of: `'rounds'`, `'bytes'` or `'seconds'`.
    budget: How much; what the run that spent least had spent in all, if None.

  Raises FileError if a file of a run cannot be used, and SettingError for runs that are alike in
  label and seed, or none.
  """
  pairs = (
    [*runs.items()] if isinstance(runs, Mapping) else [(r.settings['method'], r) for r in runs]
  )
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  labelled = [(label, run.folder) for label, run in pairs]
  return comparison.write(labelled, pathlib.Path(folder), network, at, budget)
