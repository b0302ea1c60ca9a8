"""Runs one spec in a run folder, or resumes it."""

from collections.abc import Callable, Mapping
import pathlib
from typing import Any

import tensorflow as tf

from tff_lowrank import methods
from tff_lowrank import objects
from tff_lowrank import tasks
from tff_lowrank.reports import client_plots
from tff_lowrank.reports import curves
from tff_lowrank.reports import freezing_plots
from tff_lowrank.reports import plots
from tff_lowrank.reports import report as report_lib
from tff_lowrank.reports import run_files
from tff_lowrank.runs import client_memory
from tff_lowrank.runs import contexts
from tff_lowrank.runs import errors
from tff_lowrank.runs import loop
from tff_lowrank.runs import provenance
from tff_lowrank.runs import run_folder
from tff_lowrank.runs import saving as saving_lib
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import folder_lock
from tff_lowrank.simulation import stopping


def train(
  spec: spec_lib.RunSpec,
  folder: pathlib.Path,
  label: str,
  saving: saving_lib.Saving = saving_lib.Saving(),  # noqa: B008 (frozen)
  is_enough: Callable[[Mapping[str, Any]], bool] = lambda row: False,
  task: tasks.Task | None = None,
) -> bool:
  """Runs `spec` in `folder`, created if needed; resumes from the newest checkpoint if there is one.

  Ctrl-C and SIGTERM end it after the current round, with a checkpoint.

  Args:
    spec: What to run.
    folder: The folder of this run only.
    label: The name of the run in plots and progress.
    saving: How often checkpoints are written, and what they keep.
    is_enough: Called with each round's row of metrics; true ends the run as a signal does.
    task: The task, prepared by `prepare_task`, in place of the one that `spec` names.

  Returns:
    Whether there was anything to do: false if the run was finished already.

  Raises:
    BlockingIOError: If another process runs in `folder`.
    manifest.MismatchError: If `folder` has a run with other flags.
    stopping.Stopped: If a signal, or `is_enough`, ended the run.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise OSError(
      f'output_dir: folder {folder} cannot be created: {e.strerror}. Use another.'
    ) from e
  with folder_lock.FolderLock(folder), stopping.StopRequest() as stop:
    if spec.has_client_rates:  # First, since they decide whether it is the same run.
      task = task or build_task(spec)
      spec = spec.with_client_rates(task.train.client_ids)
      run_folder.check_client_rates(spec, folder)
    if run_folder.is_complete(spec, folder):
      print(f'{folder} is finished, with {spec.rounds} rounds; there is nothing to do.')
      return False
    before = provenance.read_record(folder / run_files.RECORD)
    if run_folder.has_rows(folder):
      run_folder.check_has_checkpoint(folder, before)
      run_folder.check_not_undone(folder, spec)
    (folder / run_files.SUMS).unlink(missing_ok=True)
    devices = [device.name for device in tf.config.list_logical_devices()]
    identity = client_memory.identity(before)
    record = provenance.RunRecord(
      folder / run_files.RECORD,
      spec.as_dict(),
      devices,
      before,
      sources=_sources(spec, task),
      method=_method_facts(spec.record),
      client_memory_identity=identity,
      **(dict(client_learning_rates=spec.client_rates) if spec.has_client_rates else {}),
    )
    try:
      with contexts.opened(spec):
        arguments = None if task else task_arguments(spec)
        task = task or build_task(spec)
        run = loop.Loop(spec, task, folder, saving, is_enough, identity, arguments)
        record.update('running', client_memory=run.client_memory,
                      metric=task.objective.described())  # fmt: skip
        run.go(label, stop)
      metric, pictures = curves.metric([folder]), folder / 'plots'
      plots.plot_accuracy([(label, folder)], pictures, metric)
      client_plots.plot_clients([(label, folder)], pictures / 'clients.png', metric)
      if spec.freezing_settings is not None:
        freezing_plots.plot_run(folder, pictures, metric)
      report_lib.write_run(folder, label)
      record.update('completed', **run.outcome)
      run_files.write_sums(folder)
    except stopping.Stopped:
      record.update('stopped')
      run_files.write_sums(folder)
      raise
    except BaseException as e:
      record.update_if_possible('failed', error=f'{type(e).__name__}: {e}')
      raise
  return True


def _method_facts(record: methods.Method) -> dict[str, Any]:
  """What reports need to know about a method."""
  return dict(
    name=record.name,
    about=record.about,
    source=record.source,
    is_baseline=record.is_baseline,
    is_personal=record.is_personal,
  )


def _sources(spec: spec_lib.RunSpec, task: tasks.Task | None) -> dict[str, dict[str, str]]:
  """The versions of a task and a method from outside this package."""
  found = {}
  with errors.as_setting_errors():
    if task is not None:
      found['task'] = dict(sha256=task.digest())
    elif source := tasks.source(spec.task):
      found['task'] = source
    if objects.is_name(spec.method):
      found['method'] = objects.source(spec.method)
    elif spec.method not in methods.METHODS:  # The user's own object.
      found['method'] = objects.source_of(spec.record.build)
  return found


def _options(spec: spec_lib.RunSpec) -> dict[str, Any]:
  """The options that every task takes: see `tasks.prepare`."""
  return dict(
    num_clients=spec.num_clients,
    seed=spec.seed,
    client_test_fraction=spec.client_test_fraction,
    model_family=spec.model_family,
    gamma=spec.gamma,
    tanh=spec.tanh,
    initialization=spec.initialization,
  )


def prepare_task(spec: spec_lib.RunSpec, task: tasks.Task) -> tasks.Task:
  """Applies the settings of `spec` to a user's task; raises SettingError if they do not fit."""
  with errors.as_setting_errors():
    return tasks.prepare(task, **_options(spec))


def task_arguments(spec: spec_lib.RunSpec) -> dict[str, Any]:
  """The arguments of `tasks.build` for the task of `spec`."""
  return dict(
    name=spec.task,
    partition=spec.partition,
    data_dir=spec.data_dir,
    head_rank=None if spec.gamma is None else spec.fedpara_head_rank,
    task_args=spec.task_arguments,
    **_options(spec),
  )


def build_task(spec: spec_lib.RunSpec) -> tasks.Task:
  """Loads the task of `spec`; raises SettingError if the settings do not fit the data."""
  with errors.as_setting_errors():
    return tasks.build(**task_arguments(spec))
