"""Partitioners against their promises and against plain loops written from their definitions."""

import collections

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from tff_lowrank.datasets import partition


def labels_of(counts, rng):
  return rng.permutation(np.repeat(np.arange(len(counts)), counts))


def assert_conserved(parts, labels, num_clients):
  assert len(parts) == num_clients
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
  assert all(len(part) for part in parts)


def counts_by_client(parts, labels):
  return np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 9))
def test_iid_is_even_in_all_and_in_every_class(num_clients, counts, seed):
  labels = labels_of(counts, np.random.default_rng(0))
  num_clients = min(num_clients, len(labels))
  parts = partition.iid(labels, num_clients, seed)
  assert_conserved(parts, labels, num_clients)
  table = counts_by_client(parts, labels)
  assert np.ptp(table.sum(1)) <= 1
  assert np.all(np.ptp(table, axis=0) <= 1)


@pytest.mark.parametrize('num_clients, classes', [(100, 3), (10, 2), (7, 1), (5, 10), (13, 4)])
def test_shards_hold_few_classes_split_evenly(num_clients, classes):
  rng = np.random.default_rng(1)
  labels = labels_of([300, 280, 310, 290, 305], rng)
  parts = partition.shards(labels, num_clients, 3, classes_per_client=classes)
  assert_conserved(parts, labels, num_clients)
  table = counts_by_client(parts, labels)
  assert np.all((table > 0).sum(1) <= classes)
  holders = (table > 0).sum(0)
  assert np.ptp(holders) <= 1
  for c in range(table.shape[1]):
    shares = table[table[:, c] > 0, c]
    # As numpy.array_split: sizes differ by one at most.
    assert np.ptp(shares) <= 1


def test_shards_with_a_rare_class():
  labels = np.array([0] * 50 + [1] * 2)
  parts = partition.shards(labels, 10, 0, classes_per_client=1)
  assert_conserved(parts, labels, 10)
  assert (counts_by_client(parts, labels)[:, 1] > 0).sum() == 2


def independent_dirichlet(labels, num_clients, seed, alpha):
  """The definition in plain Python, drawing from the generator in the documented order."""
  rng = np.random.default_rng(seed)
  while True:
    parts = collections.defaultdict(list)
    for c in sorted(set(labels.tolist())):
      members = [i for i, label in enumerate(labels.tolist()) if label == c]
      members = list(rng.permutation(np.array(members)))
      share = rng.dirichlet([alpha] * num_clients)
      start, total = 0, 0.0
      for k in range(num_clients):
        total += share[k]
        end = len(members) if k == num_clients - 1 else int(total * len(members))
        parts[k] += members[start:end]
        start = end
    if all(parts[k] for k in range(num_clients)):
      return [sorted(parts[k]) for k in range(num_clients)]


@pytest.mark.parametrize('alpha', [0.1, 0.5, 1.0, 100.0])
def test_dirichlet_equals_the_definition(alpha):
  labels = labels_of([100, 90, 120, 80], np.random.default_rng(2))
  parts = partition.dirichlet(labels, 8, 5, alpha=alpha)
  assert_conserved(parts, labels, 8)
  for mine, theirs in zip(parts, independent_dirichlet(labels, 8, 5, alpha), strict=True):
    np.testing.assert_array_equal(mine, theirs)


def test_dirichlet_is_skewed_for_small_alpha_and_even_for_large():
  labels = labels_of([1000] * 10, np.random.default_rng(3))
  spread = {}
  for alpha in (0.1, 1.0, 1000.0):
    table = counts_by_client(partition.dirichlet(labels, 10, 0, alpha=alpha), labels)
    spread[alpha] = np.std(table)
  assert spread[0.1] > spread[1.0] > 10 * spread[1000.0]


def independent_iid(labels, num_clients, seed):
  rng = np.random.default_rng(seed)
  shuffled = rng.permutation(len(labels)).tolist()
  deck = [i for c in sorted(set(labels.tolist())) for i in shuffled if labels[i] == c]
  order = rng.permutation(num_clients)
  hands = [[] for _ in range(num_clients)]
  for position, card in enumerate(deck):
    hands[position % num_clients].append(card)
  return [sorted(hands[order[k]]) for k in range(num_clients)]


def test_iid_equals_dealing_cards():
  labels = labels_of([13, 8, 21], np.random.default_rng(4))
  for mine, theirs in zip(partition.iid(labels, 5, 6), independent_iid(labels, 5, 6), strict=True):
    np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
  'spec',
  ['iid', 'shards:2', 'dirichlet:0.5', 'dirichlet_balanced:0.5', 'dirichlet_by_class:0.5'],
)
def test_seed_decides_and_parse_finds_the_partitioner(spec):
  labels = labels_of([50, 60, 70], np.random.default_rng(5))
  split = partition.parse(spec)
  first, again, other = (split(labels, 6, seed) for seed in (1, 1, 2))
  assert_conserved(first, labels, 6)
  assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
  assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize(
  'spec',
  ['', 'iid:3', 'shards', 'shards:0', 'shards:x', 'dirichlet:0', 'dirichlet:-1', 'dirichlet:inf',
   'dirichlet:nan', 'dirichlet_balanced', 'dirichlet_by_class:0', 'dirichlet_other:1', 'natural',
   'IID'],
)  # fmt: skip
def test_parse_refuses(spec):
  with pytest.raises(ValueError, match='A partition must be `iid`'):
    partition.parse(spec)


def test_refuses_what_cannot_be_split():
  labels = np.array([0, 0, 1])
  with pytest.raises(ValueError, match='at most the number of examples, 3, found 4'):
    partition.iid(labels, 4, 0)
  with pytest.raises(ValueError, match=r'shape \[num_examples\], found \(3, 1\)'):
    partition.iid(labels[:, None], 2, 0)
  with pytest.raises(ValueError, match='cannot have all 2 classes'):
    partition.shards(labels, 1, 0, classes_per_client=1)
  for alpha in (0, 1e-10, 1e300):
    with pytest.raises(ValueError, match='`alpha` must be in'):
      partition.dirichlet(labels, 2, 0, alpha=alpha)
  for split in (partition.dirichlet_balanced, partition.dirichlet_by_class):
    with pytest.raises(ValueError, match='`alpha` must be in'):
      split(labels, 2, 0, alpha=0)
    with pytest.raises(ValueError, match='at most the number of examples, 3, found 4'):
      split(labels, 4, 0, alpha=1)


DIRICHLET = (partition.dirichlet, partition.dirichlet_by_class, partition.dirichlet_balanced)


@pytest.mark.parametrize('split', DIRICHLET)
@pytest.mark.parametrize('alpha', [1e-4, 0.1, 1e6])
def test_a_thousand_clients(split, alpha):
  labels = labels_of([1000] * 10, np.random.default_rng(5))
  parts = split(labels, 1000, 2, alpha=alpha)
  assert_conserved(parts, labels, 1000)
  again = split(labels, 1000, 2, alpha=alpha)
  assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize('split', DIRICHLET)
def test_as_many_clients_as_examples(split):
  parts = split(np.arange(40) % 3, 40, 0, alpha=0.01)
  assert_conserved(parts, np.arange(40) % 3, 40)


def test_who_has_no_examples_gets_one_of_the_largest(monkeypatch):
  monkeypatch.setattr(partition, '_MAX_DRAWS', 1)
  labels = labels_of([300, 200], np.random.default_rng(7))
  parts = partition.dirichlet(labels, 20, 3, alpha=0.05)
  assert_conserved(parts, labels, 20)
  # The same draw by the definition, without the promise.
  rng = np.random.default_rng(3)
  drawn = [set() for _ in range(20)]
  for c in range(2):
    members = rng.permutation(np.flatnonzero(labels == c))
    ends = np.floor(np.cumsum(rng.dirichlet([0.05] * 20)) * len(members)).astype(int)
    ends[-1] = len(members)
    for k, end in enumerate(ends):
      drawn[k] |= set(members[(ends[k - 1] if k else 0) : end].tolist())
  num_empty = sum(not part for part in drawn)
  assert num_empty > 3
  given = 0
  for part, before in zip(parts, drawn, strict=True):
    if before:
      assert set(part.tolist()) <= before
      given += len(before) - len(part)
      # Only the largest give, down to the size of the next one.
      assert len(part) == len(before) or len(before) > 30
    else:
      assert len(part) == 1
  assert given == num_empty


def test_shares_of_a_class_are_dirichlet():
  """One client's share is then Beta(alpha, (num_clients - 1) alpha)."""
  labels = labels_of([2000] * 4, np.random.default_rng(8))
  alpha, num_clients = 0.7, 5
  shares = np.array([
    counts_by_client(partition.dirichlet(labels, num_clients, seed, alpha=alpha), labels) / 2000
    for seed in range(150)
  ])  # fmt: skip
  mean = 1 / num_clients
  variance = mean * (1 - mean) / (num_clients * alpha + 1)
  # 600 independent draws of 5 shares: relative standard error of the variance about 4 %.
  np.testing.assert_allclose(shares.mean(axis=(0, 2)), mean, atol=4 * np.sqrt(variance / 600))
  np.testing.assert_allclose(shares.var(), variance, rtol=0.12)


def independent_by_class(labels, num_clients, seed, alpha, fewest):
  """As in the code of Li et al., NIID-Bench, in plain lists."""
  rng = np.random.default_rng(seed)
  count, smallest, draws = len(labels), 0, 0
  while smallest < fewest:
    draws += 1
    parts = [[] for _ in range(num_clients)]
    for c in sorted(set(labels.tolist())):
      members = rng.permutation(np.flatnonzero(labels == c))
      shares = rng.dirichlet(np.repeat(alpha, num_clients))
      shares = np.array([
        share * (len(part) < count / num_clients)
        for share, part in zip(shares, parts, strict=True)
      ])  # fmt: skip
      shares = shares / shares.sum()
      ends = (np.cumsum(shares) * len(members)).astype(int)[:-1]
      pieces = np.split(members, ends)
      parts = [part + piece.tolist() for part, piece in zip(parts, pieces, strict=True)]
    smallest = min(len(part) for part in parts)
  return [sorted(part) for part in parts], draws


@pytest.mark.parametrize('alpha', [0.1, 0.5, 10.0])
@pytest.mark.parametrize('counts, fewest', [([100, 90, 120, 80], 10), ([20, 30], 3)])
def test_by_class_equals_the_published_code(alpha, counts, fewest):
  labels = labels_of(counts, np.random.default_rng(2))
  parts = partition.dirichlet_by_class(labels, 8, 5, alpha=alpha)
  assert_conserved(parts, labels, 8)
  expected, draws = independent_by_class(labels, 8, 5, alpha, fewest)
  assert draws < 1000
  for mine, theirs in zip(parts, expected, strict=True):
    np.testing.assert_array_equal(mine, theirs)


def test_by_class_has_a_least_size_and_spares_the_full():
  labels = labels_of([600] * 10, np.random.default_rng(9))
  table = counts_by_client(partition.dirichlet_by_class(labels, 100, 1, alpha=0.1), labels)
  assert table.sum(1).min() >= 10
  # Whoever has the fair number, 60, gets no more classes: one class is all that goes beyond.
  for row in table:
    assert row[: np.flatnonzero(row)[-1]].sum() < 60 or row.sum() - row.max() < 60


def independent_balanced(labels, num_clients, alpha, rng):
  """Example by example, as the paper has it: counts [num_clients, num_classes]."""
  left = np.bincount(labels).tolist()
  prior = np.array(left) / len(labels)
  table = np.zeros((num_clients, len(left)), int)
  for k in range(num_clients):
    shares = rng.dirichlet(alpha * prior)
    for _ in range(len(labels) // num_clients):
      open_shares = shares * (np.array(left) > 0)
      c = rng.choice(len(left), p=open_shares / open_shares.sum())
      table[k, c] += 1
      left[c] -= 1
  return table


def test_balanced_clients_have_equally_many():
  labels = labels_of([70, 50, 33], np.random.default_rng(3))
  table = counts_by_client(partition.dirichlet_balanced(labels, 10, 4, alpha=0.3), labels)
  assert sorted(table.sum(1)) == [15] * 7 + [16] * 3
  even = counts_by_client(partition.dirichlet_balanced(labels, 10, 4, alpha=1e6), labels)
  assert np.abs(even - np.array([7, 5, 3.3])).max() < 7
  one = counts_by_client(partition.dirichlet_balanced(labels, 10, 4, alpha=1e-3), labels)
  assert (one.max(1) / one.sum(1)).mean() > 0.85


def test_balanced_shares_are_distributed_as_by_single_draws():
  labels = labels_of([240, 120, 60], np.random.default_rng(6))
  rng = np.random.default_rng(0)

  def statistics(table):
    shares = table / table.sum(1, keepdims=True)
    return [shares.max(1).mean(), *(shares**2).mean(0), (shares == 0).mean()]

  mine, theirs = (
    np.array([statistics(table) for table in tables])
    for tables in (
      [counts_by_client(partition.dirichlet_balanced(labels, 14, s, alpha=1.5), labels)
       for s in range(120)],
      [independent_balanced(labels, 14, 1.5, rng) for _ in range(120)],
    )
  )  # fmt: skip
  error = np.sqrt((mine.var(0) + theirs.var(0)) / 120)
  assert (np.abs(mine.mean(0) - theirs.mean(0)) < 4 * error).all()


def test_the_first_balanced_client_has_shares_of_the_prior():
  """Before any class runs out, a client's counts are Dirichlet-multinomial."""
  labels = labels_of([600, 300, 100], np.random.default_rng(1))
  prior, alpha, size = np.array([0.6, 0.3, 0.1]), 2.0, 20
  counts = []
  for seed in range(400):
    rng = np.random.default_rng(seed)
    for c in range(3):  # What the partitioner draws before.
      rng.permutation(np.flatnonzero(labels == c))
    first = rng.permutation(50)[0]
    parts = partition.dirichlet_balanced(labels, 50, seed, alpha=alpha)
    counts.append(np.bincount(labels[parts[first]], minlength=3))
  counts = np.array(counts)
  variance = size * prior * (1 - prior) * (size + alpha) / (1 + alpha)
  np.testing.assert_allclose(counts.mean(0), size * prior, atol=4 * np.sqrt(variance.max() / 400))
  np.testing.assert_allclose(counts.var(0), variance, rtol=0.35)
