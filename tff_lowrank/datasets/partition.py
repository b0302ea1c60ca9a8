"""Partitions of a labelled data set over clients. Pure NumPy on indices.

Every partitioner maps `(labels, num_clients, seed)` to a list of index arrays, one a client,
and hands out every example exactly once.
"""

from collections.abc import Callable

import numpy as np

from tff_lowrank import checks

Partitioner = Callable[[np.ndarray, int, int], list[np.ndarray]]

_MAX_DRAWS = 1000
# NumPy's draws do not come to an end far below, and are not finite far above.
_ALPHAS = (1e-4, 1e6)


def _check(labels: np.ndarray, num_clients: int) -> np.ndarray:
  labels = np.asarray(labels)
  if labels.ndim != 1:
    raise ValueError(f'`labels` must be of shape [num_examples], found {labels.shape}.')
  checks.check_at_least('num_clients', num_clients, 1)
  if num_clients > len(labels):
    raise ValueError(
      f'`num_clients` must be at most the number of examples, {len(labels)}, found {num_clients}.'
    )
  return labels


def iid(labels: np.ndarray, num_clients: int, seed: int) -> list[np.ndarray]:
  """Stratified: any two clients' counts, in all and of each class, differ by at most one."""
  labels = _check(labels, num_clients)
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
  order = rng.permutation(num_clients)
  # Dealing the sorted examples out like cards keeps every class even.
  return [np.sort(by_class[order[k] :: num_clients]) for k in range(num_clients)]


def shards(
  labels: np.ndarray, num_clients: int, seed: int, *, classes_per_client: int
) -> list[np.ndarray]:
  """At most `classes_per_client` classes a client; a class is split evenly among its holders.

  Classes have as equal numbers of holders as possible, and every client at least one example.
  """
  labels = _check(labels, num_clients)
  checks.check_at_least('classes_per_client', classes_per_client, 1)
  rng = np.random.default_rng(seed)
  classes, counts = np.unique(labels, return_counts=True)
  per_client = min(classes_per_client, len(classes))
  num_slots = num_clients * per_client
  if num_slots < len(classes):
    raise ValueError(
      f'{num_clients} clients of {classes_per_client} classes cannot hold {len(classes)} classes.'
    )
  free = _slots(counts, num_slots, num_clients)
  holders = [[] for _ in classes]
  for client in rng.permutation(num_clients):
    # Always taking the classes with the most slots left never runs into a dead end.
    ties = rng.permutation(len(classes))
    for c in ties[np.argsort(-free[ties], kind='stable')][:per_client]:
      if free[c] > 0:
        holders[c].append(client)
        free[c] -= 1
  parts = [[] for _ in range(num_clients)]
  for c, held_by in enumerate(holders):
    examples = rng.permutation(np.flatnonzero(labels == classes[c]))
    for client, share in zip(held_by, np.array_split(examples, len(held_by)), strict=True):
      parts[client].append(share)
  if not all(parts):
    raise ValueError(f'{len(labels)} examples are too few for {num_clients} such clients.')
  return [np.sort(np.concatenate(part)) for part in parts]


def _slots(counts: np.ndarray, num_slots: int, num_clients: int) -> np.ndarray:
  """How many clients hold each class: as even as the counts allow, `num_slots` in all."""
  limit = np.minimum(counts, num_clients)
  slots = np.ones_like(limit)
  while slots.sum() < min(num_slots, limit.sum()):
    open_classes = np.flatnonzero(slots < limit)
    fewest = open_classes[np.argmin(slots[open_classes])]
    slots[fewest] += 1
  return slots


def dirichlet(labels: np.ndarray, num_clients: int, seed: int, *, alpha: float) -> list[np.ndarray]:
  """Each class is split over the clients in proportions drawn from Dirichlet(alpha).

  Yurochkin et al., Bayesian Nonparametric Federated Learning of Neural Networks, ICML 2019.
  All proportions are drawn again until every client has an example; ValueError if they never
  do.
  """
  labels = _check(labels, num_clients)
  checks.check_in_range('alpha', alpha, *_ALPHAS)
  rng = np.random.default_rng(seed)
  classes = np.unique(labels)
  for _ in range(_MAX_DRAWS):
    parts = [[] for _ in range(num_clients)]
    for c in classes:
      examples = rng.permutation(np.flatnonzero(labels == c))
      share = rng.dirichlet(np.full(num_clients, alpha))
      cuts = np.floor(np.cumsum(share)[:-1] * len(examples)).astype(np.int64)
      for part, piece in zip(parts, np.split(examples, cuts), strict=True):
        part.append(piece)
    parts = [np.sort(np.concatenate(part)) for part in parts]
    if all(len(part) for part in parts):
      return parts
  raise ValueError(
    f'Dirichlet({alpha}) left a client of {num_clients} without examples in all of {_MAX_DRAWS} '
    'draws; use fewer clients or a larger alpha.'
  )


def parse(spec: str) -> Partitioner:
  """The partitioner that `spec` names: `iid`, `shards:CLASSES` or `dirichlet:ALPHA`.

  Raises ValueError for anything else.
  """
  name, _, argument = spec.partition(':')
  try:
    if name == 'iid' and not argument:
      return iid
    if name == 'shards':
      classes = int(argument)
      if classes >= 1:
        return lambda labels, num_clients, seed: shards(
          labels, num_clients, seed, classes_per_client=classes
        )
    if name == 'dirichlet':
      alpha = float(argument)
      if _ALPHAS[0] <= alpha <= _ALPHAS[1]:
        return lambda labels, num_clients, seed: dirichlet(labels, num_clients, seed, alpha=alpha)
  except ValueError:
    pass
  raise ValueError(
    'A partition must be `iid`, `shards:CLASSES` with at least 1 class a client, or '
    f'`dirichlet:ALPHA` with ALPHA from {_ALPHAS[0]} to {_ALPHAS[1]:.0f}, found {spec!r}.'
  )
