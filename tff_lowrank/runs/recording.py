"""Trains with FedAvg and records every client update, to study other methods on them."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tff_lowrank import client_state
from tff_lowrank import learning
from tff_lowrank import ledger
from tff_lowrank import methods
from tff_lowrank import tasks
from tff_lowrank.analysis import replay
from tff_lowrank.runs import client_data
from tff_lowrank.runs import contexts
from tff_lowrank.runs import errors
from tff_lowrank.runs import processes
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import evaluation
from tff_lowrank.simulation import rounds as rounds_lib
from tff_lowrank.simulation import sampling

# Settings of a run that have no effect in a study of FedAvg.
UNUSED = ('client_memory', 'client_test_fraction', 'downlink', 'dropout_rate',
          'evaluate_after_training', 'patience', 'stop_at_accuracy', 'straggler_deadline',
          'uplink')  # fmt: skip


class Measured(NamedTuple):
  """The cost and the metrics of a round.

  uplink_bytes, downlink_bytes: the bytes of all messages.
  evaluated: metrics on the test examples, in rounds with an evaluation.
  """

  uplink_bytes: int
  downlink_bytes: int
  evaluated: dict[str, float] | None


def _arrays(tensors: Iterable[Any]) -> list[np.ndarray]:
  return [np.asarray(x) for x in tensors]


def _build_with_last_updates(parts: methods.Parts) -> learning.ClientStatefulLearningProcess:
  """FedAvg whose client state is the last update: LBGM with threshold 0."""
  arguments = parts.both_ways
  return learning.build_lbgm_fed_avg(inner=arguments.pop('codec'), threshold=0.0, **arguments)


def _weight(spec: spec_lib.RunSpec, task: tasks.Task, client: str) -> float:
  """A client's weight in the mean, up to a common factor."""
  if spec.client_weighting == 'uniform':
    return 1.0
  trained_on = spec.client_epochs * task.train.num_examples(client)
  return float(min(trained_on, spec.client_max_elements or trained_on))


def _bytes(reports: Sequence[Any], direction: str) -> int:
  return sum(ledger.to_bytes(ledger.total(report[direction])) for report in reports)


def record(
  spec: spec_lib.RunSpec, task: tasks.Task, on_round: Callable[[replay.Round, Measured], None]
) -> None:
  """Trains as `spec` says and calls `on_round` after each round.

  Updates are recorded for the baseline method, FedAvg; for other methods `updates` and `weights`
  are empty.
  """
  keeps_updates = spec.record.is_baseline
  with contexts.opened(spec):
    clients = task.train.client_ids
    spec = spec.with_client_rates(clients)
    with errors.as_setting_errors():
      model = task.build_model(spec.seed)
      parts = processes.build_parts(spec, model, task.keras_model_fn, len(clients))
      process = _build_with_last_updates(parts) if keeps_updates else spec.record.build(parts)
      sample = sampling.build_sampling(clients, spec.clients_per_round, spec.seed)
    evaluate = evaluation.build_evaluation(model, task.test, task.preprocess, task.eval_batch_size)
    state, store = process.initialize(), client_state.MemoryStore(process.initialize_client())
    before = _arrays(process.get_model_weights(state).trainable)

    def after_round(done: rounds_lib.Round) -> None:
      nonlocal before
      weights = process.get_model_weights(done.state)
      after = _arrays(weights.trainable)
      pairs = zip(done.client_ids, done.reports, strict=True) if keeps_updates else ()
      accepted = [client for client, report in pairs if report['accepted']]
      updates = {
        client: _arrays(block['look_back'][0] for block in memory)
        for client, memory in zip(accepted, store.read(accepted), strict=True)
      }
      on_round(
        replay.Round(
          number=done.number,
          updates=updates,
          weights={client: _weight(spec, task, client) for client in updates},
          before=before,
          after=after,
        ),
        Measured(
          uplink_bytes=_bytes(done.reports, ledger.UPLINK),
          downlink_bytes=_bytes(done.reports, ledger.DOWNLINK),
          evaluated=evaluate(weights) if spec.is_evaluated(done.number) else None,
        ),
      )
      before = after

    rounds_lib.run_rounds(
      process,
      state,
      store,
      sample,
      client_data.from_task(spec, task, model),
      range(1, spec.rounds + 1),
      after_round,
    )
