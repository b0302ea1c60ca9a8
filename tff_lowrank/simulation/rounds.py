"""The loop over rounds."""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import logging
import time
from typing import Any

import tensorflow as tf

from tff_lowrank import client_state
from tff_lowrank import execution
from tff_lowrank import files
from tff_lowrank import learning
from tff_lowrank.execution import client_datasets
from tff_lowrank.execution import interruptible
from tff_lowrank.execution import ray_pool
from tff_lowrank.execution import stored
from tff_lowrank.simulation import sampling

NO_EXAMPLES = 'no examples'


@dataclasses.dataclass(frozen=True)
class Round:
  """The result of a round.

  number: from 1.
  client_ids: the clients that took part, in the order of `reports`.
  state: the server's state after the round.
  reports: one per client; see `learning.ClientStatefulLearningOutput`.
  metrics: the metrics of the process; None if no client took part.
  seconds: wall time of the process's `next`, including data preparation.
  absent: (client, reason) of sampled clients that did not take part.
  """

  number: int
  client_ids: Sequence[str]
  state: Any
  reports: Sequence[Any]
  metrics: Any
  seconds: float
  absent: Sequence[tuple[str, str]] = ()


def _nobody_is_absent(client_id: str, number: int) -> str | None:
  del client_id, number
  return None


def _damage(dataset: tf.data.Dataset | execution.ClientDataset) -> str | None:
  """The reason why `dataset` cannot be read to its end, or None."""
  try:
    if isinstance(dataset, execution.ClientDataset):
      dataset = interruptible.run(dataset.open)
    # Read as the context reads it, so that Ctrl-C can end it at any time.
    interruptible.run(lambda: collections.deque(interruptible.elements(dataset), maxlen=0))
  except files.FileError:
    raise
  except client_datasets.NoExamplesError:
    return NO_EXAMPLES
  except Exception as e:
    return f'its data failed: {type(e).__name__}: {str(e).splitlines()[0][:200]}'
  return None


class _Cohort:
  """The cohort of a round: the clients in it, and the reasons why others are excluded."""

  def __init__(self, number: int):
    self._number = number
    self.datasets: dict[str, tf.data.Dataset | execution.ClientDataset] = {}
    self.absent: list[tuple[str, str]] = []

  def exclude(self, client_id: str, reason: str) -> None:
    self.datasets.pop(client_id, None)
    self.absent.append((client_id, reason))
    logging.info('Round %d: client %r is excluded: %s.', self._number, client_id, reason)

  def add(self, client_id: str, client_dataset: Callable[[str, int], Any]) -> None:
    try:
      dataset = client_dataset(client_id, self._number)
      if isinstance(dataset, execution.ClientDataset):
        cardinality = (
          tf.data.UNKNOWN_CARDINALITY if dataset.num_steps is None else dataset.num_steps
        )
        dataset = dataclasses.replace(dataset, is_empty_refused=dataset.num_steps is None)
      else:
        cardinality = int(dataset.cardinality())
    except files.FileError:
      raise  # Not the client failed, but the user's data set.
    except Exception as e:
      self.exclude(client_id, f'its data failed: {type(e).__name__}: {e}')
      return
    if cardinality == tf.data.INFINITE_CARDINALITY:
      raise ValueError(
        f'The data set of client {client_id!r} in round {self._number} never ends: its cardinality '
        'is infinite. Use `take(number_of_batches)`, or `repeat(number)` with a number.'
      )
    if cardinality == 0:
      self.exclude(client_id, NO_EXAMPLES)
    else:
      self.datasets[client_id] = dataset

  def exclude_damaged(self) -> bool:
    """Excludes clients whose data cannot be read to the end; returns whether there were any."""
    found = [(client_id, _damage(dataset)) for client_id, dataset in self.datasets.items()]
    damages = [(client_id, damage) for client_id, damage in found if damage is not None]
    for client_id, damage in damages:
      self.exclude(client_id, damage)
    return bool(damages)


def _run_cohort(
  process: learning.ClientStatefulLearningProcess,
  state: Any,
  store: client_state.Store,
  cohort: _Cohort,
) -> learning.ClientStatefulLearningOutput | None:
  """One call of `next`, for the clients whose data can be read; None if there are none."""
  while cohort.datasets:
    try:
      memory = store.read(list(cohort.datasets))
      with stored.client_values_stay():
        return process.next(state, memory, list(cohort.datasets.values()))
    except (ray_pool.WorkersLostError, stored.LostError):
      raise  # Data that made workers fail are not opened in this process.
    except Exception:
      # A data set may fail only when it is read. Any other error is not a client's fault.
      if not cohort.exclude_damaged():
        raise
  return None


def run_rounds(
  process: learning.ClientStatefulLearningProcess,
  state: Any,
  store: client_state.Store,
  select_clients: Callable[[int], Sequence[str]],
  client_dataset: Callable[[str, int], tf.data.Dataset | execution.ClientDataset],
  rounds: range,
  after_round: Callable[[Round], None],
  *,
  absence: Callable[[str, int], str | None] = _nobody_is_absent,
  should_stop: Callable[[], bool] = lambda: False,
) -> Any:
  """Runs `process` for the given rounds and returns the server's last state.

  A client whose data are empty or cannot be read is excluded from the round: it sends nothing, and
  its client state does not change. If no client is left, the server's state does not change. A
  `FileError` is raised instead, since the user must repair a damaged file.

  Args:
    process: The learning process.
    state: The server's state before the first of `rounds`.
    store: The client state; changes are committed at the end of each round.
    select_clients: Round number -> sampled clients.
    client_dataset: Client and round number -> its batches, or their description.
    rounds: The numbers of the rounds to run.
    after_round: Called with each finished round, after the commit.
    absence: Client and round number -> the reason why it is absent, or None.
    should_stop: Called before each round.

  Raises:
    ValueError: If a client is sampled twice in a round, or a data set never ends.
  """
  for number in rounds:
    if should_stop():
      break
    start = time.monotonic()
    cohort = _Cohort(number)
    chosen = select_clients(number)
    sampling.check_different(chosen)
    for client_id in chosen:
      reason = absence(client_id, number)
      if reason is None:
        cohort.add(client_id, client_dataset)
      else:
        cohort.exclude(client_id, reason)
    output = _run_cohort(process, state, store, cohort)
    seconds = time.monotonic() - start
    client_ids = list(cohort.datasets)
    reports, metrics = [], None
    if output is not None:
      state, reports, metrics = output.state, output.reports, output.metrics
      # The state of clients that were not accepted is unchanged.
      store.stage(client_ids, output.client_states)
    del output  # With the state of all clients in the round.
    store.commit(number)
    after_round(Round(number, client_ids, state, reports, metrics, seconds, cohort.absent))
  return state
