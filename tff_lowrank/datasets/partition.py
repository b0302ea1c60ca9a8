"""Partitions of a labelled data set over clients. Pure NumPy on indices.

Every partitioner maps `(labels, num_clients, seed)` to a list of index arrays, one per client, and
assigns every example exactly once.
"""

from collections.abc import Callable
import functools

import numpy as np

from tff_lowrank import checks

Partitioner = Callable[[np.ndarray, int, int], list[np.ndarray]]

_MAX_DRAWS = 1000
_FEWEST = 10  # Minimum number of examples of a client, if there are enough.
# Far below, NumPy's sampling does not end; far above, samples are not finite.
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
  """Stratified: the counts of any two clients, total and per class, differ by at most one."""
  labels = _check(labels, num_clients)
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(labels))
  by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
  order = rng.permutation(num_clients)
  # Assigning the sorted examples round-robin keeps every class even.
  return [np.sort(by_class[order[k] :: num_clients]) for k in range(num_clients)]


def shards(
  labels: np.ndarray, num_clients: int, seed: int, *, classes_per_client: int
) -> list[np.ndarray]:
  """At most `classes_per_client` classes per client; a class is split evenly over its clients.

  The numbers of clients per class are as equal as possible; every client has at least one example.
  """
  labels = _check(labels, num_clients)
  checks.check_at_least('classes_per_client', classes_per_client, 1)
  rng = np.random.default_rng(seed)
  classes, counts = np.unique(labels, return_counts=True)
  per_client = min(classes_per_client, len(classes))
  num_slots = num_clients * per_client
  if num_slots < len(classes):
    raise ValueError(
      f'{num_clients} clients with {classes_per_client} classes each cannot have all '
      f'{len(classes)} classes.'
    )
  free = _slots(counts, num_slots, num_clients)
  holders: list[list[int]] = [[] for _ in classes]
  for client in rng.permutation(num_clients):
    # Always taking the classes with the most slots left never fails.
    ties = rng.permutation(len(classes))
    for c in ties[np.argsort(-free[ties], kind='stable')][:per_client]:
      if free[c] > 0:
        holders[c].append(client)
        free[c] -= 1
  parts: list[list[np.ndarray]] = [[] for _ in range(num_clients)]
  for c, held_by in enumerate(holders):
    examples = rng.permutation(np.flatnonzero(labels == classes[c]))
    for client, share in zip(held_by, np.array_split(examples, len(held_by)), strict=True):
      parts[client].append(share)
  if not all(parts):
    raise ValueError(f'{len(labels)} examples are too few for {num_clients} such clients.')
  return [np.sort(np.concatenate(part)) for part in parts]


def _slots(counts: np.ndarray, num_slots: int, num_clients: int) -> np.ndarray:
  """The number of clients with each class: as even as the counts allow, `num_slots` in total."""
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
  All proportions are drawn again until every client has an example. If 1000 draws do not suffice,
  as is usual for many clients and a small alpha, each client without examples gets a random one
  from the client that then has the most.
  """
  labels = _check(labels, num_clients)
  checks.check_in_range('alpha', alpha, *_ALPHAS)
  rng = np.random.default_rng(seed)
  members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
  for _ in range(_MAX_DRAWS):
    sizes, pieces = np.zeros(num_clients, np.int64), []
    for examples in members:
      examples = rng.permutation(examples)
      cuts = _cuts(rng.dirichlet(np.full(num_clients, alpha)), len(examples))
      sizes += np.diff(cuts, prepend=0, append=len(examples))
      pieces.append((examples, cuts))
    if sizes.all():
      break
  return _at_least(1, _joined(pieces), rng)


def dirichlet_by_class(
  labels: np.ndarray, num_clients: int, seed: int, *, alpha: float
) -> list[np.ndarray]:
  """As `dirichlet`, but clients with their fair number of examples get no more classes.

  Li et al., Federated Learning on Non-IID Data Silos: An Experimental Study, ICDE 2022, based on
  the code of Yurochkin et al. Classes are split one after the other, in proportions drawn from
  Dirichlet(alpha); the proportions of clients that have n / num_clients of the n examples are set
  to 0. All is drawn again until every client has 10 examples, or half the fair number if that is
  less, and at least 1. If 1000 draws do not suffice, each client with fewer examples gets random
  ones, one by one, from the client that then has the most.
  """
  labels = _check(labels, num_clients)
  checks.check_in_range('alpha', alpha, *_ALPHAS)
  rng = np.random.default_rng(seed)
  members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
  fair = len(labels) / num_clients
  fewest = max(1, min(_FEWEST, int(fair / 2)))
  for _ in range(_MAX_DRAWS):
    sizes, pieces = np.zeros(num_clients, np.int64), []
    for examples in members:
      examples = rng.permutation(examples)
      shares = _shares(rng.dirichlet(np.full(num_clients, alpha)), sizes < fair)
      cuts = _cuts(shares, len(examples))
      sizes += np.diff(cuts, prepend=0, append=len(examples))
      pieces.append((examples, cuts))
    if sizes.min() >= fewest:
      break
  return _at_least(fewest, _joined(pieces), rng)


def dirichlet_balanced(
  labels: np.ndarray, num_clients: int, seed: int, *, alpha: float
) -> list[np.ndarray]:
  """Clients have equal numbers of examples, with different class proportions.

  Hsu et al., Measuring the Effects of Non-Identical Data Distribution for Federated Visual
  Classification, 2019. A client's proportions are drawn from Dirichlet(alpha * p), where p are
  those of all examples. The class of each of its examples is drawn from them, again if the class
  has no examples left. So the last clients, in an order from the seed, get what is left. Sizes
  differ by at most one, so that all examples are assigned.
  """
  labels = _check(labels, num_clients)
  checks.check_in_range('alpha', alpha, *_ALPHAS)
  rng = np.random.default_rng(seed)
  members = [rng.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
  left = np.array([len(examples) for examples in members])
  prior = alpha * left / left.sum()
  parts = [np.zeros(0, np.int64)] * num_clients
  for i, client in enumerate(rng.permutation(num_clients)):
    proportions, part = rng.dirichlet(prior), []
    missing = len(labels) // num_clients + (i < len(labels) % num_clients)
    while missing:
      wanted = rng.multinomial(missing, _shares(proportions, left > 0))
      taken = np.minimum(wanted, left)
      for examples, start, count in zip(members, left - taken, taken, strict=True):
        part.append(examples[start : start + count])
      left = left - taken
      missing -= taken.sum()
    parts[client] = np.sort(np.concatenate(part))
  return parts


def _shares(proportions: np.ndarray, is_open: np.ndarray) -> np.ndarray:
  """Normalises the shares of the open ones to sum 1; equal shares if they are all 0."""
  shares = np.where(is_open, proportions, 0)
  if not shares.sum() > 0:
    shares = is_open.astype(np.float64)
  return shares / shares.sum()


def _cuts(shares: np.ndarray, count: int) -> np.ndarray:
  """The positions that cut `count` examples into pieces of these shares."""
  return np.floor(np.cumsum(shares)[:-1] * count).astype(np.int64)


def _joined(pieces: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
  """Concatenates each client's pieces of the `(examples, cuts)` of all classes."""
  by_class = [np.split(examples, cuts) for examples, cuts in pieces]
  return [np.sort(np.concatenate(part)) for part in zip(*by_class, strict=True)]


def _at_least(fewest: int, parts: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
  """Moves random examples from the largest parts to those with too few examples."""
  parts, sizes = list(parts), np.array([len(part) for part in parts])
  for client in np.flatnonzero(sizes < fewest):
    while sizes[client] < fewest:
      giver = sizes.argmax()
      given = rng.integers(sizes[giver])
      parts[client] = np.append(parts[client], parts[giver][given])
      parts[giver] = np.delete(parts[giver], given)
      sizes[[client, giver]] += (1, -1)
  return [np.sort(part) for part in parts]


_DIRICHLET = {f.__name__: f for f in (dirichlet, dirichlet_balanced, dirichlet_by_class)}


def parse(spec: str) -> Partitioner:
  """The partitioner that `spec` names.

  It is `iid`, `shards:CLASSES`, `dirichlet:ALPHA`, `dirichlet_balanced:ALPHA` or
  `dirichlet_by_class:ALPHA`. Raises ValueError for anything else.

  >>> import numpy as np
  >>> from tff_lowrank.datasets import partition
  >>> labels = np.repeat(np.arange(10), 100)
  >>> [len(indices) for indices in partition.parse('iid')(labels, 4, 1)]
  [250, 250, 250, 250]
  >>> [len(set(labels[indices])) for indices in partition.parse('shards:2')(labels, 5, 1)]
  [2, 2, 2, 2, 2]
  """
  name, _, argument = spec.partition(':')
  try:
    if name == 'iid' and not argument:
      return iid
    if name == 'shards':
      classes = int(argument)
      if classes >= 1:
        return functools.partial(shards, classes_per_client=classes)
    if name in _DIRICHLET:
      alpha = float(argument)
      if _ALPHAS[0] <= alpha <= _ALPHAS[1]:
        return functools.partial(_DIRICHLET[name], alpha=alpha)
  except ValueError:
    pass
  raise ValueError(
    'A partition must be `iid`, `shards:CLASSES` with at least 1 class per client, or '
    f'{", ".join(f"`{name}:ALPHA`" for name in _DIRICHLET)} with ALPHA from {_ALPHAS[0]} to '
    f'{_ALPHAS[1]:.0f}, found {spec!r}.'
  )
