"""Samples the clients of a round."""

import collections
from collections.abc import Callable, Sequence

import tensorflow_federated as tff

from tff_lowrank import checks


def check_different(client_ids: Sequence[str]) -> None:
  """Raises ValueError if an id occurs twice: both clients would share one state."""
  twice = [client_id for client_id, n in collections.Counter(client_ids).items() if n > 1]
  if twice:
    raise ValueError(f'Expected different client ids, found {twice[0]!r} more than once.')


def build_sampling(
  client_ids: Sequence[str], clients_per_round: int, seed: int
) -> Callable[[int], list[str]]:
  """A function from the round number to its clients, sampled uniformly without replacement.

  The sample depends only on the seed and the round, so it is the same in a resumed run and for all
  methods. With `clients_per_round` 0 all clients take part, in order.

  Raises ValueError if there are fewer clients than requested, or two have the same id.
  """
  checks.check_at_least('clients_per_round', clients_per_round, 0)
  client_ids = list(client_ids)
  check_different(client_ids)
  if clients_per_round > len(client_ids):
    raise ValueError(
      f'`clients_per_round` must be at most the number of clients, {len(client_ids)}, found '
      f'{clients_per_round}.'
    )
  if clients_per_round == 0:
    return lambda round_num: client_ids
  sample = tff.simulation.build_uniform_sampling_fn(client_ids, random_seed=seed)
  return lambda round_num: sample(round_num, clients_per_round)
