"""The loop over rounds."""

from collections.abc import Callable, Sequence
import dataclasses
import time
from typing import Any

import tensorflow as tf

from tff_lowrank import client_state
from tff_lowrank import learning


@dataclasses.dataclass(frozen=True)
class Round:
  """What happened in a round.

  number: from 1.
  client_ids: who took part, in the order of `reports`.
  state: the server's, after the round.
  reports: one a client; see `learning.ClientStatefulLearningOutput`.
  metrics: the process's.
  seconds: wall time of the process's `next`, data preparation included.
  """

  number: int
  client_ids: Sequence[str]
  state: Any
  reports: Sequence[Any]
  metrics: Any
  seconds: float


def run_rounds(
  process: learning.ClientStatefulLearningProcess,
  state: Any,
  store: client_state.MemoryStore,
  select_clients: Callable[[int], Sequence[str]],
  client_dataset: Callable[[str, int], tf.data.Dataset],
  rounds: range,
  after_round: Callable[[Round], None],
) -> Any:
  """Runs `process` for the given rounds and returns the server's last state.

  Args:
    process: What a round computes.
    state: The server's state before the first of `rounds`.
    store: The clients' memory; a round's is committed once the round is done.
    select_clients: The round's number -> its clients.
    client_dataset: A client and the round's number -> its batches.
    rounds: The numbers of the rounds to run.
    after_round: Called with each finished round, after the commit.
  """
  for number in rounds:
    start = time.monotonic()
    client_ids = select_clients(number)
    datasets = [client_dataset(client_id, number) for client_id in client_ids]
    output = process.next(state, store.read(client_ids), datasets)
    seconds = time.monotonic() - start
    state = output.state
    store.stage(client_ids, output.client_states)
    store.commit(number)
    after_round(Round(number, client_ids, state, output.reports, output.metrics, seconds))
  return state
