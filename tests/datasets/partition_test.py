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


@pytest.mark.parametrize('spec', ['iid', 'shards:2', 'dirichlet:0.5'])
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
   'dirichlet:nan', 'natural', 'IID'],
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
  with pytest.raises(ValueError, match='cannot hold 2 classes'):
    partition.shards(labels, 1, 0, classes_per_client=1)
  for alpha in (0, 1e-10, 1e300):
    with pytest.raises(ValueError, match='`alpha` must be in'):
      partition.dirichlet(labels, 2, 0, alpha=alpha)
  with pytest.raises(ValueError, match='left a client of 50 without examples'):
    partition.dirichlet(np.zeros(50, int), 50, 0, alpha=0.01)
