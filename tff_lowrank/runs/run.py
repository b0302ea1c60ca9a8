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
  """The results in a run's folder. Files are read on access.

  All methods raise FileError if a file cannot be used.
  """

  def __init__(self, folder: str | os.PathLike):
    """Raises FileNotFoundError if `folder` is not a run folder."""
    self.folder = pathlib.Path(folder)
    curves.read_record(self.folder)

  def __repr__(self) -> str:
    return f'Run({str(self.folder)!r})'

  @property
  def record(self) -> dict[str, Any]:
    """The content of run.json: `flags`, `versions`, `status` and others."""
    return curves.read_record(self.folder)

  @property
  def settings(self) -> Mapping[str, Any]:
    """All settings that decide the run's numbers, by name."""
    return self.record['flags']

  @property
  def metrics(self) -> pd.DataFrame:
    """The rows of metrics.csv, one per round."""
    return run_files.read_metrics(self.folder)

  @property
  def ledger(self) -> pd.DataFrame:
    """The size of each message, by kind of content: see `ledger.Ledger`."""
    return curves.read_whole_ledger(self.folder)

  @property
  def report(self) -> pathlib.Path:
    """The file of the report of a finished run."""
    return self.folder / report.FILE

  def load_model(self, name: str = 'model') -> Any:
    """The trained Keras model.

    Args:
      name: `'model'`, the trained model; `'composed'`, the same with ordinary layers in place of
        factorised ones; `'best'`, the model of the round with the best evaluation (`keep_best`).

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
  """Trains into `folder`, or resumes the run in it, as `tff-lowrank train` does.

  The numbers equal those of the command to the last digit if TF_NUM_INTRAOP_THREADS=1 is in the
  environment before TensorFlow starts. TFF's installed context is not changed; Python's, NumPy's
  and TensorFlow's global random seeds are set.

  Args:
    task: What to train on: a `Task`, the name of a task, or `package.module:FUNCTION`.
    method: A `Method`, a name in `methods.METHODS`, or `package.module:RECORD`.
    folder: The folder of this run only; created if needed.
    saving: How often checkpoints are written, and what they keep.
    **given: Settings by name, of `RunSpec` and of the method: `rounds=60, lbgm_threshold=0.4`.
      `client_learning_rate` may be a function from a client's id to its rate. It is called once
      for each client; run.json records the rates, and a run is resumed with the same rates only.

  Returns:
    The finished run.

  Raises:
    settings.SettingError: If a setting does not exist, or settings contradict each other.
    manifest.MismatchError: If `folder` has a run with other settings.
    stopping.Stopped: If Ctrl-C or SIGTERM ended it; the same call resumes the run.
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
  """Compares finished runs, and writes tables, plots and report.html.

  Args:
    runs: By label, such as the method and its settings; or a list, where the label is the method.
      Runs with the same label must have different seeds. Savings are relative to runs of FedAvg
      whose label is that method's name.
    folder: The folder to write to; created if needed.
    network: The network for the simulated time.
    at: The unit of the budget: `'rounds'`, `'bytes'` or `'seconds'`.
    budget: Runs are compared at this budget; if None, at the total of the cheapest run.

  Raises FileError if a file of a run cannot be used, and SettingError if two runs have the same
  label and seed, or there are no runs.
  """
  pairs = (
    [*runs.items()] if isinstance(runs, Mapping) else [(r.settings['method'], r) for r in runs]
  )
  pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
  labelled = [(label, run.folder) for label, run in pairs]
  return comparison.write(labelled, pathlib.Path(folder), network, at, budget)
