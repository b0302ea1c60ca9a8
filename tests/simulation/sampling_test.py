import collections

import pytest

from tff_lowrank.simulation import sampling

IDS = [f'c{k}' for k in range(20)]


def test_depends_on_seed_and_round_alone():
  first, again, other = (sampling.build_sampling(IDS, 5, seed) for seed in (1, 1, 2))
  backwards = [again(r) for r in reversed(range(1, 30))][::-1]
  assert [first(r) for r in range(1, 30)] == backwards
  assert [first(r) for r in range(1, 30)] != [other(r) for r in range(1, 30)]


def test_without_replacement_and_everybody_in_turn():
  sample = sampling.build_sampling(IDS, 5, 1)
  seen = collections.Counter()
  for r in range(1, 401):
    cohort = sample(r)
    assert len(set(cohort)) == 5
    seen.update(cohort)
  # 400 rounds of a quarter: 100 each, with a standard deviation below 9.
  assert set(seen) == set(IDS)
  assert all(60 < n < 140 for n in seen.values())


def test_zero_is_everybody():
  assert sampling.build_sampling(IDS, 0, 1)(7) == IDS


def test_refuses_more_than_there_are():
  with pytest.raises(ValueError, match='at most the number of clients, 20, found 21'):
    sampling.build_sampling(IDS, 21, 1)


def test_refuses_clients_of_one_id():
  with pytest.raises(ValueError, match="different client ids, found '../a' more than once"):
    sampling.build_sampling(['../a', 'b', '../a'], 1, 1)
