"""Runs one spec into a run folder, or goes on with it where it was left."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import json
import logging
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
import tqdm

from experiments import client_data
from experiments import client_memory
from experiments import freezing_trace
from experiments import methods
from experiments import provenance
from experiments import recorder as recorder_lib
from experiments import saving as saving_lib
from experiments import spec_checks
from experiments import specs
from experiments.reports import freezing_plots
from experiments.reports import plots
from experiments.reports import report as report_lib
from experiments.reports import run_files
from tff_lowrank import client_state
from tff_lowrank import execution
from tff_lowrank import files
from tff_lowrank import learning
from tff_lowrank import ledger
from tff_lowrank import tasks
from tff_lowrank.simulation import absence as absence_lib
from tff_lowrank.simulation import checkpoint
from tff_lowrank.simulation import evaluation
from tff_lowrank.simulation import folder_lock
from tff_lowrank.simulation import manifest
from tff_lowrank.simulation import metrics as metrics_lib
from tff_lowrank.simulation import rounds as rounds_lib
from tff_lowrank.simulation import sampling
from tff_lowrank.simulation import stopping

CONTEXTS = dict(local=execution.set_local_context, stock=execution.stock_context)

_RECORD = run_files.RECORD
_CHECKPOINTS = run_files.CHECKPOINTS


def train(
  spec: specs.RunSpec,
  folder: pathlib.Path,
  label: str,
  saving: saving_lib.Saving = saving_lib.Saving(),  # noqa: B008 (frozen)
  is_enough: Callable[[Mapping[str, Any]], bool] = lambda row: False,
) -> bool:
  """Runs `spec` into `folder`, made if needed, from its newest checkpoint if it has one.

  Ctrl-C and SIGTERM end it after the round, with a checkpoint.

  Args:
    spec: What to run.
    folder: Where to; of this one run.
    label: Names the run in plots and progress.
    saving: How it is kept safe.
    is_enough: Called with each round's row of metrics; true ends the run as a signal does.

  Returns:
    Whether there was anything to do: false for a run that was complete already.

  Raises:
    BlockingIOError: If another process runs in `folder`.
    manifest.MismatchError: If `folder` holds a run of other flags.
    stopping.Stopped: If a signal, or `is_enough`, ended the run.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as e:
    raise OSError(
      f'--output_dir: {folder} cannot be made a folder: {e.strerror}. Give another.'
    ) from e
  with folder_lock.FolderLock(folder), stopping.StopRequest() as stop:
    if is_complete(spec, folder):
      print(f'{folder} is complete, with {spec.rounds} rounds; there is nothing to do.')
      return False
    before = provenance.read_record(folder / _RECORD)
    if _has_rows(folder):
      _check_has_checkpoint(folder, before)
      _check_not_undone(folder, spec)
    (folder / run_files.SUMS).unlink(missing_ok=True)
    devices = [device.name for device in tf.config.list_logical_devices()]
    record = provenance.RunRecord(folder / _RECORD, spec.as_dict(), devices, before)
    try:
      with CONTEXTS[spec.context]():
        run = _Run(spec, folder, saving, is_enough)
        record.update('running', client_memory=run.client_memory)
        run.go(label, stop)
      plots.plot_accuracy({label: folder}, folder / 'plots')
      if spec.freezing_settings() is not None:
        freezing_plots.plot_run(folder, folder / 'plots')
      report_lib.write_run(folder, label)
      record.update('completed')
      run_files.write_sums(folder)
    except stopping.Stopped:
      record.update('stopped')
      run_files.write_sums(folder)
      raise
    except BaseException as e:
      record.update_if_possible('failed', error=f'{type(e).__name__}: {e}')
      raise
  return True


def is_complete(spec: specs.RunSpec, folder: pathlib.Path) -> bool:
  """Whether `folder` holds the whole run, as it was written; with a warning if it is damaged.

  Raises MismatchError if it holds a run of other flags.
  """
  record = provenance.read_record(folder / _RECORD)
  if record is None or not _has_rows(folder):
    return False
  manifest.check_same_run(folder, record['flags'], spec.as_dict())
  if record['status'] != 'completed' or record['flags'].get('rounds') != spec.rounds:
    return False
  try:
    run_files.check(folder)
  except files.FileError as e:
    logging.warning('%s', e)
    return False
  return True


def _has_rows(folder: pathlib.Path) -> bool:
  path = folder / recorder_lib.METRICS_FILE
  if not path.exists():
    return False
  files.check_regular(path, 'the metrics of a run')
  return path.stat().st_size > 0


def _check_has_checkpoint(folder: pathlib.Path, before: Mapping[str, Any] | None) -> None:
  """Raises DamagedError for rows without a checkpoint, unless a run was cut off early."""
  is_cut_off = before is not None and before['status'] in ('running', 'failed')
  if not is_cut_off and not any(folder.glob(f'{_CHECKPOINTS}/*/*')):
    raise manifest.DamagedError(
      f'{folder} holds {recorder_lib.METRICS_FILE} and no checkpoint to go on from, so its rows '
      'would be lost. Give another --output_dir, or delete that file.'
    )


def _check_not_undone(folder: pathlib.Path, spec: specs.RunSpec) -> None:
  """Raises MismatchError if the run in `folder` is past the rounds of `spec`."""
  done = max(manifest.saved_rounds(folder / _CHECKPOINTS), default=0)
  if done > spec.rounds:
    raise manifest.MismatchError(
      f'{folder} has {done} rounds, which --rounds={spec.rounds} would undo. Give --rounds as many '
      'or more, or another --output_dir.'
    )


@contextlib.contextmanager
def _as_damage() -> Iterator[None]:
  """Inside, where what a run saved is read back, a ValueError is about these files."""
  try:
    yield
  except (files.FileError, manifest.DamagedError, manifest.MismatchError):
    raise
  except ValueError as e:
    raise manifest.DamagedError(str(e)) from e


def _build_evaluation(
  task: tasks.Task,
  model: tff.learning.models.FunctionalModel,
  process: learning.ClientStatefulLearningProcess,
  store: client_state.Store,
  after_training: Mapping[str, Any],
) -> Callable[[Any], dict[str, float]]:
  """A function from the server's state to the metrics of all evaluations of the task.

  `after_training` is what `evaluation.build_personal_evaluation` takes for it, or empty.
  """
  central = evaluation.build_evaluation(model, task.test, task.preprocess, task.eval_batch_size)
  if task.client_test is None:
    return lambda state: central(process.get_model_weights(state))
  personal = evaluation.build_personal_evaluation(
    model,
    process,
    task.client_test,
    task.preprocess,
    batch_size=task.eval_batch_size,
    **after_training,
  )
  return lambda state: central(process.get_model_weights(state)) | personal(state, store.read)


def build_task(spec: specs.RunSpec) -> tasks.Task:
  """Loads what `spec` trains on; raises UsageError if it is not for this data."""
  with spec_checks.as_usage_errors():
    return tasks.build(
      spec.task,
      partition=spec.partition,
      num_clients=spec.num_clients,
      seed=spec.seed,
      data_dir=spec.data_dir,
      client_test_fraction=spec.client_test_fraction,
      model_family=spec.model_family,
      gamma=spec.gamma,
      tanh=spec.tanh,
      head_rank=None if spec.gamma is None else spec.fedpara_head_rank,
    )


class _Run:
  """One run's parts, and the way through its rounds."""

  def __init__(
    self,
    spec: specs.RunSpec,
    folder: pathlib.Path,
    saving: saving_lib.Saving,
    is_enough: Callable[[Mapping[str, Any]], bool],
  ):
    self._spec, self._folder, self._saving = spec, folder, saving
    self._is_enough = is_enough
    self._task = build_task(spec)
    clients = self._task.train.client_ids
    with spec_checks.as_usage_errors():
      self._model = self._task.build_model(spec.seed)
      self._process = methods.build_process(
        spec, self._model, self._task.keras_model_fn, len(clients)
      )
      self._sampling = sampling.build_sampling(clients, spec.clients_per_round, spec.seed)
    self._initial_memory = self._process.initialize_client()
    population = (len(clients), self._initial_memory)
    self.client_memory = client_memory.choose(spec, folder, *population)
    client_memory.check_fits(spec, folder, *population, self.client_memory)
    self._absence = absence_lib.Absence(spec.seed, spec.dropout_rate, spec.straggler_deadline)
    settings = spec.freezing_settings()
    self._trace = None
    if settings is not None:
      self._trace = freezing_trace.FreezingTrace(settings, spec.seed)

  def go(self, label: str, stop: stopping.StopRequest) -> None:
    """Runs the rounds that are left; raises `Stopped` once `stop` is made and all is saved."""
    spec = self._spec
    with _as_damage():
      store = client_memory.open_store(
        self.client_memory, self._folder, self._initial_memory, self._saving.client_memory_cap_mb
      )
    metrics_type = self._process.next.type_signature.result.metrics.member
    columns = list(recorder_lib.method_metrics(metrics_lib.zeros(metrics_type)))
    evaluated = tuple(self._task.objective.metrics)
    if self._task.client_test is not None:
      evaluated += evaluation.PERSONAL_METRICS
    if self._spec.evaluate_after_training:
      evaluated += (evaluation.TRAINED_ACCURACY,)
    try:
      with recorder_lib.Recorder(self._folder, columns, evaluated) as recorder:
        checkpoints = checkpoint.Checkpoints(
          self._folder / _CHECKPOINTS, spec.as_dict(), recorder.logs, self._saving.keep_checkpoints
        )
        first, state = self._restore(checkpoints, recorder, store)
        progress = tqdm.tqdm(
          total=spec.rounds, initial=first - 1, desc=label, unit='round', disable=None
        )
        with progress:
          save = functools.partial(self._save, checkpoints, recorder, store)
          last = self._run_rounds(state, store, first, recorder, progress, save, stop)
    finally:
      store.close()
    if last < spec.rounds:
      raise stopping.Stopped(
        stop.signal_number,
        f'Stopped{" by a signal" if stop.is_made else ""} after round {last} of {spec.rounds}; '
        f'saved in {self._folder}. The same command goes on from there.',
      )
    if self._trace is not None:
      self._trace.write(self._folder / freezing_trace.FILE)

  def _restore(
    self,
    checkpoints: checkpoint.Checkpoints,
    recorder: recorder_lib.Recorder,
    store: client_state.Store,
  ) -> tuple[int, Any]:
    """The round to begin with, and the server's state before it."""
    state = self._process.initialize()
    with _as_damage():
      restored = checkpoints.restore(state, store)
    if restored is None:
      return 1, state
    extras = restored.extras
    recorder.restore(extras)
    self._absence.restore(json.loads(extras['absence_clients'].tobytes()), extras['absence_costs'])
    if self._trace is not None:
      prefix = 'trace/'
      self._trace.restore(
        {k.removeprefix(prefix): v for k, v in extras.items() if k.startswith(prefix)}
      )
    return restored.round_num + 1, restored.state

  def _save(
    self,
    checkpoints: checkpoint.Checkpoints,
    recorder: recorder_lib.Recorder,
    store: client_state.Store,
    round_num: int,
    state: Any,
  ) -> None:
    clients, costs = self._absence.save()
    extras = recorder.save()
    extras['absence_clients'] = np.frombuffer(json.dumps(clients).encode(), np.uint8)
    extras['absence_costs'] = costs
    if self._trace is not None:
      extras |= {f'trace/{name}': value for name, value in self._trace.save().items()}
    checkpoints.save(round_num, state, store, extras)

  def _run_rounds(
    self,
    state: Any,
    store: client_state.Store,
    first: int,
    recorder: recorder_lib.Recorder,
    progress: tqdm.tqdm,
    save: Callable[[int, Any], None],
    stop: stopping.StopRequest,
  ) -> int:
    """Runs from round `first` and returns the last round that is done, which is saved."""
    spec, task = self._spec, self._task
    client_dataset = client_data.from_task(spec, task, self._model)
    after_training = {}
    if spec.evaluate_after_training:
      after_training = dict(
        client_optimizer=methods.build_client_optimizer(spec),
        train_dataset=lambda client: client_dataset(client, 0),
      )
    with spec_checks.as_usage_errors():
      evaluate = _build_evaluation(task, self._model, self._process, store, after_training)
    last = saved = first - 1
    enough = False

    def after_round(done: rounds_lib.Round) -> None:
      nonlocal last, saved, enough
      last = done.number
      evaluated = None
      if spec.is_evaluated(last):
        evaluated = evaluate(done.state)
      row = recorder.record(done, evaluated)
      enough = self._is_enough(row)
      for client_id, report in zip(done.client_ids, done.reports, strict=True):
        down, up = (
          ledger.to_bytes(ledger.total(report[direction]))
          for direction in (ledger.DOWNLINK, ledger.UPLINK)
        )
        self._absence.enter(client_id, down, up)
      if self._trace is not None:
        self._trace.add(done.state)
      if last == spec.rounds or last % self._saving.checkpoint_every == 0:
        save(last, done.state)
        saved = last
      spent = row['cumulative_uplink_bytes'] + row['cumulative_downlink_bytes']
      shown = {'MB': f'{spent / 1e6:.1f}'}
      if evaluated:
        for name in ('accuracy', 'personal_accuracy'):
          if name in evaluated:
            shown[name] = f'{evaluated[name]:.4f}'
      progress.set_postfix(shown)
      progress.update()

    state = rounds_lib.run_rounds(
      self._process,
      state,
      store,
      self._sampling,
      client_dataset,
      range(first, spec.rounds + 1),
      after_round,
      absence=self._absence.reason,
      should_stop=lambda: enough or stop.is_made,
    )
    if saved < last:
      save(last, state)
    return last
