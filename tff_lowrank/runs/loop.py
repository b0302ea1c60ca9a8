"""The training loop of a run, starting from its newest checkpoint."""

from collections.abc import Callable, Mapping
import contextlib
import functools
import json
import pathlib
from typing import Any

import numpy as np
import tensorflow_federated as tff

from tff_lowrank import client_state
from tff_lowrank import learning
from tff_lowrank import ledger
from tff_lowrank import tasks
from tff_lowrank.models import weight_names
from tff_lowrank.reports import run_files
from tff_lowrank.runs import client_data
from tff_lowrank.runs import client_memory
from tff_lowrank.runs import client_metrics
from tff_lowrank.runs import contexts
from tff_lowrank.runs import errors
from tff_lowrank.runs import freezing_trace
from tff_lowrank.runs import judge
from tff_lowrank.runs import model_files
from tff_lowrank.runs import processes
from tff_lowrank.runs import progress as progress_lib
from tff_lowrank.runs import recorder as recorder_lib
from tff_lowrank.runs import saving as saving_lib
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import absence as absence_lib
from tff_lowrank.simulation import checkpoint
from tff_lowrank.simulation import evaluation
from tff_lowrank.simulation import metrics as metrics_lib
from tff_lowrank.simulation import rounds as rounds_lib
from tff_lowrank.simulation import sampling
from tff_lowrank.simulation import stopping


def _build_evaluation(
  task: tasks.Task,
  model: tff.learning.models.FunctionalModel,
  process: learning.ClientStatefulLearningProcess,
  store: client_state.Store,
  after_training: Mapping[str, Any],
  client_test: Callable[[str], Any] | None,
) -> Callable[[Any], dict[str, float]]:
  """A function from the server's state to the metrics of all evaluations of the task.

  `after_training` has the arguments of `evaluation.build_personal_evaluation` for it, or is
  empty; `client_test` is its `test_dataset`.
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
    test_dataset=client_test,
    **after_training,
  )
  return lambda state: central(process.get_model_weights(state)) | personal(state, store.read)


class Loop:
  """The parts of a run, and its training loop."""

  def __init__(
    self,
    spec: spec_lib.RunSpec,
    task: tasks.Task,
    folder: pathlib.Path,
    saving: saving_lib.Saving,
    is_enough: Callable[[Mapping[str, Any]], bool],
    identity: str,
    task_arguments: Mapping[str, Any] | None = None,
  ):
    """`task_arguments` are those of `tasks.build` for `task`; None if the task is an object."""
    self._spec, self._folder, self._saving = spec, folder, saving
    self._is_enough, self._identity = is_enough, identity
    self._task, self._task_arguments = task, task_arguments
    clients = self._task.train.client_ids
    with errors.as_setting_errors():
      self._model = self._task.build_model(spec.seed)
      self._process = processes.build_process(
        spec, self._model, self._task.keras_model_fn, len(clients)
      )
      self._sampling = sampling.build_sampling(clients, spec.clients_per_round, spec.seed)
    self._initial_memory = self._process.initialize_client()
    population = (len(clients), self._initial_memory)
    self.client_memory = client_memory.choose(spec, folder, *population)
    client_memory.check_fits(spec, folder, *population, self.client_memory)
    self._absence = absence_lib.Absence(spec.seed, spec.dropout_rate, spec.straggler_deadline)
    self._names = weight_names.trainable(task.keras_model_fn())
    settings = spec.freezing_settings
    self._judge = judge.Judge(spec)
    self._client_log: client_metrics.ClientMetricsLog | None = None
    self._trace = None
    if settings is not None:
      self._trace = freezing_trace.FreezingTrace(settings, spec.seed, self._names)

  def go(self, label: str, stop: stopping.StopRequest) -> None:
    """Runs the remaining rounds; on `stop`, saves everything and raises `Stopped`."""
    spec = self._spec
    with errors.as_damage():
      store = client_memory.open_store(
        self.client_memory,
        self._folder,
        self._initial_memory,
        self._saving.client_memory_cap_mb,
        self._identity,
      )
    metrics_type = self._process.next.type_signature.result.metrics.member
    columns = list(recorder_lib.method_metrics(metrics_lib.zeros(metrics_type), self._names))
    evaluated = tuple(self._task.objective.metrics)
    if self._task.client_test is not None:
      evaluated += evaluation.PERSONAL_METRICS
    if self._spec.evaluate_after_training:
      evaluated += (evaluation.TRAINED_ACCURACY,)
    try:
      main_metric = self._task.objective.main
      opened = recorder_lib.Recorder(self._folder, columns, evaluated, main_metric, self._names)
      with opened as recorder, contextlib.ExitStack() as stack:
        if spec.client_metrics:
          log = self._client_log = client_metrics.ClientMetricsLog(self._folder)
          stack.callback(log.close)
          recorder.logs[client_metrics.LOG] = log.log
        checkpoints = checkpoint.Checkpoints(
          self._folder / run_files.CHECKPOINTS,
          spec.as_dict(),
          recorder.logs,
          self._saving.keep_checkpoints,
        )
        first, state = self._restore(checkpoints, recorder, store)
        with progress_lib.Progress(label, spec.rounds, first - 1) as progress:
          save = functools.partial(self._save, checkpoints, recorder, store)
          last, state = self._run_rounds(state, store, first, recorder, progress, save, stop)
    finally:
      store.close()
    if last < spec.rounds and self._judge.reason_to_stop() is None:
      raise stopping.Stopped(
        stop.signal_number,
        f'Stopped{" by a signal" if stop.is_made else ""} after round {last} of {spec.rounds}; '
        f'saved in {self._folder}. The same command resumes the run.',
      )
    if self._trace is not None:
      self._trace.write(self._folder / freezing_trace.FILE)
    self._save_model(model_files.save_final, state)

  @property
  def outcome(self) -> dict[str, Any]:
    """How the training loop ended, for the record."""
    reason = self._judge.reason_to_stop()
    return dict(best_round=self._judge.best_round) | (dict(ended_early=reason) if reason else {})

  def _save_model(self, save: Callable[..., None], state: Any) -> None:
    save(self._folder, self._task, self._process.get_model_weights(state))

  def _restore(
    self,
    checkpoints: checkpoint.Checkpoints,
    recorder: recorder_lib.Recorder,
    store: client_state.Store,
  ) -> tuple[int, Any]:
    """The first round to run, and the server's state before it."""
    state = self._process.initialize()
    with errors.as_damage():
      restored = checkpoints.restore(state, store)
    if restored is None:
      return 1, state
    for row in run_files.read_metrics(self._folder).to_dict('records'):
      self._judge.see(row)
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
    progress: progress_lib.Progress,
    save: Callable[[int, Any], None],
    stop: stopping.StopRequest,
  ) -> tuple[int, Any]:
    """Runs from round `first` on; returns the last round's number and the state after it."""
    spec, task = self._spec, self._task
    client_dataset, client_test = client_data.from_task(spec, task, self._model), None
    if contexts.opens_client_data(spec):
      described = client_data.Described(spec, task, self._model, self._task_arguments)
      client_dataset, client_test = described.train, described.test
    after_training = {}
    if spec.evaluate_after_training:
      after_training = dict(
        client_optimizer=processes.build_client_optimizer(spec),
        train_dataset=lambda client: client_dataset(client, 0),
      )
    with errors.as_setting_errors():
      evaluate = _build_evaluation(
        task, self._model, self._process, store, after_training, client_test
      )
    measure_clients = None
    client_log = self._client_log
    if client_log is not None:
      measure_clients = evaluation.build_client_evaluation(
        self._model, self._process, task.train, task.preprocess, batch_size=task.eval_batch_size
      )
    last = saved = first - 1
    enough = self._judge.reason_to_stop() is not None

    def after_round(done: rounds_lib.Round) -> None:
      nonlocal last, saved, enough
      last = done.number
      evaluated = None
      if spec.is_evaluated(last):
        evaluated = evaluate(done.state)
        if client_log is not None and measure_clients is not None:
          found = measure_clients(done.state, store.read, done.client_ids)
          client_log.add(last, found)
      row = recorder.record(done, evaluated)
      if self._judge.see(row):
        if self._saving.keep_best:
          self._save_model(model_files.save_best, done.state)
        else:  # Saved for a round that is no longer the best.
          model_files.remove(self._folder, 'best')
      enough = self._is_enough(row) or self._judge.reason_to_stop() is not None
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
      progress.update(last, shown)

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
    return last, state
