"""Runs one spec into a run folder."""

from collections.abc import Callable
import pathlib
from typing import Any

import tensorflow as tf
import tensorflow_federated as tff
import tqdm

from experiments import freezing_trace
from experiments import methods
from experiments import provenance
from experiments import recorder as recorder_lib
from experiments import specs
from experiments.reports import freezing_plots
from experiments.reports import plots
from tff_lowrank import client_state
from tff_lowrank import execution
from tff_lowrank import learning
from tff_lowrank import tasks
from tff_lowrank.simulation import batches as batches_lib
from tff_lowrank.simulation import evaluation
from tff_lowrank.simulation import rounds as rounds_lib
from tff_lowrank.simulation import sampling

_CONTEXTS = dict(local=execution.set_local_context, stock=execution.stock_context)


def train(spec: specs.RunSpec, folder: pathlib.Path, label: str) -> None:
  """Runs `spec` into `folder`, made if needed; `label` names the run in plots and progress."""
  folder.mkdir(parents=True, exist_ok=True)
  devices = [device.name for device in tf.config.list_logical_devices()]
  record = provenance.RunRecord(folder / 'run.json', spec.as_dict(), devices)
  try:
    with _CONTEXTS[spec.context]():
      _run_rounds(spec, folder, label)
  except BaseException as e:
    record.update('failed', error=f'{type(e).__name__}: {e}')
    raise
  plots.plot_accuracy({label: folder}, folder / 'plots')
  if spec.freezing_settings() is not None:
    freezing_plots.plot_run(folder, folder / 'plots')
  record.update('completed')


def _build_evaluation(
  task: tasks.Task,
  model: tff.learning.models.FunctionalModel,
  process: learning.ClientStatefulLearningProcess,
  store: client_state.MemoryStore,
) -> Callable[[Any], dict[str, float]]:
  """A function from the server's state to the metrics of all evaluations of the task."""
  central = evaluation.build_evaluation(model, task.test, task.preprocess)
  if task.client_test is None:
    return lambda state: central(process.get_model_weights(state))
  personal = evaluation.build_personal_evaluation(model, process, task.client_test, task.preprocess)
  return lambda state: central(process.get_model_weights(state)) | personal(state, store.read)


def _run_rounds(spec: specs.RunSpec, folder: pathlib.Path, label: str) -> None:
  task = tasks.build(
    spec.task,
    partition=spec.partition,
    num_clients=spec.num_clients,
    seed=spec.seed,
    data_dir=spec.data_dir,
    client_test_fraction=spec.client_test_fraction,
    model_family=spec.model_family,
    gamma=spec.gamma,
  )
  model = task.build_model(spec.seed)
  process = methods.build_process(spec, model, task.keras_model_fn)
  store = client_state.MemoryStore(process.initialize_client())
  evaluate = _build_evaluation(task, model, process, store)
  batches = batches_lib.ClientBatches(spec.client_epochs, spec.batch_size, spec.seed)
  select_clients = sampling.build_sampling(task.train.client_ids, spec.clients_per_round, spec.seed)
  settings = spec.freezing_settings()
  trace = None if settings is None else freezing_trace.FreezingTrace(settings, spec.seed)
  extra = () if task.client_test is None else evaluation.PERSONAL_METRICS
  progress = tqdm.tqdm(total=spec.rounds, desc=label, unit='round', disable=None)
  with recorder_lib.Recorder(folder, extra) as recorder, progress:

    def after_round(done: rounds_lib.Round) -> None:
      is_last = done.number == spec.rounds
      evaluated = None
      if is_last or done.number % spec.eval_every == 0:
        evaluated = evaluate(done.state)
      row = recorder.record(done, evaluated)
      if trace is not None:
        trace.add(done.state)
      spent = row['cumulative_uplink_bytes'] + row['cumulative_downlink_bytes']
      shown = {'MB': f'{spent / 1e6:.1f}'}
      if evaluated:
        for name in ('accuracy', 'personal_accuracy'):
          if name in evaluated:
            shown[name] = f'{evaluated[name]:.4f}'
      progress.set_postfix(shown)
      progress.update()

    rounds_lib.run_rounds(
      process,
      process.initialize(),
      store,
      select_clients,
      lambda client_id, number: batches.dataset(task.train, client_id, number, task.preprocess),
      range(1, spec.rounds + 1),
      after_round,
    )
  if trace is not None:
    trace.write(folder / freezing_trace.FILE)
