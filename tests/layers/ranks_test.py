"""Counts and ranks against the paper's statements, brute force, and numbers worked by hand."""

import math

from hypothesis import given
from hypothesis import strategies as st
import pytest

from tff_lowrank.layers import ranks

SIZES = st.integers(1, 600)
MATRICES = st.tuples(SIZES, SIZES)
WINDOWS = st.lists(st.integers(1, 7), min_size=1, max_size=3)
CONVOLUTIONS = st.builds(lambda window, *sizes: (*window, *sizes), WINDOWS, SIZES, SIZES)
KERNELS = st.one_of(
  st.tuples(MATRICES, st.just('matrix')),
  st.tuples(CONVOLUTIONS, st.sampled_from(ranks.FORMS)),
)


def test_counts_by_hand():
  # Dense 256 -> 128 at rank 12: 2 * 12 * (256 + 128).
  assert ranks.count((256, 128), 12, 'matrix', 2) == 9216
  # The paper's example, 3x3, 256 to 256 channels, R = 16 (590 K originally).
  # Proposition 3: 2 * 16 * (256 + 256 + 16 * 9); Proposition 1: 2 * 16 * (256 + 256 * 9).
  assert ranks.count((3, 3, 256, 256), 16, 'tucker', 2) == 20_992
  assert ranks.count((3, 3, 256, 256), 16, 'matrix', 2) == 81_920
  # One branch of each, and a window that is not square: 5 * (6 + 7) + 25 * 2 * 3.
  assert ranks.count((256, 128), 24, 'matrix', 1) == 9216
  assert ranks.count((2, 3, 6, 7), 5, 'tucker', 1) == 215
  assert ranks.count((2, 3, 6, 7), 5, 'matrix', 1) == 5 * (36 + 7)


def test_counts_of_the_official_notebook():
  # It solves for a share of the parameters and rounds the rank up; its printed counts.
  shape = (3, 3, 256, 256)
  assert ranks.count(shape, 36, 'tucker', 2) == 60_192
  for share, printed in [
    (0.1, 60_192),
    (0.3, 178_050),
    (0.5, 296_434),
    (0.7, 414_792),
    (0.9, 533_192),
  ]:
    rank = ranks.rank_for_budget(shape, share, 'tucker', 2) + 1
    assert ranks.count(shape, rank, 'tucker', 2) == printed


@given(KERNELS)
def test_least_unrestricted_rank(kernel):
  shape, form = kernel
  rank = ranks.minimal_rank(shape, form)
  rows = shape[-2] if form == 'tucker' else math.prod(shape[:-1])
  assert rank**2 >= min(rows, shape[-1]) > (rank - 1) ** 2


@given(KERNELS, st.sampled_from([1, 2]), st.integers(1, 10**6))
def test_largest_rank_within_a_budget(kernel, branches, budget):
  shape, form = kernel
  rank = ranks.largest_rank(shape, budget, form, branches)
  assert ranks.count(shape, rank, form, branches) <= budget
  assert ranks.count(shape, rank + 1, form, branches) > budget


@given(KERNELS)
def test_largest_useful_rank_and_the_ends_of_gamma(kernel):
  shape, form = kernel
  low, high = ranks.minimal_rank(shape, form), ranks.maximal_rank(shape, form)
  original = math.prod(shape)
  assert ranks.count(shape, high, form, 2) <= original < ranks.count(shape, high + 1, form, 2)
  assert ranks.rank_for_gamma(shape, 0.0, form) == low
  assert ranks.rank_for_gamma(shape, 1.0, form) == max(low, high)
  chosen = [ranks.rank_for_gamma(shape, gamma / 10, form) for gamma in range(11)]
  assert chosen == sorted(chosen)
  if ranks.is_worthwhile(shape, form):
    assert low <= high


def test_ranks_of_known_layers():
  # 784 -> 256: r_min = 16; r_max = floor(784 * 256 / (2 * 1040)) = floor(96.49); their mean is 56.
  assert ranks.minimal_rank((784, 256), 'matrix') == 16
  assert ranks.maximal_rank((784, 256), 'matrix') == 96
  assert ranks.rank_for_gamma((784, 256), 0.5, 'matrix') == 56
  # 256 -> 10: r_min = r_max = 4. 256 -> 62: 8 and 24.
  assert ranks.rank_for_gamma((256, 10), 0.5, 'matrix') == 4
  assert ranks.rank_for_gamma((256, 62), 0.5, 'matrix') == 16
  # Half to even: r_min = 2, r_max = 3 gives 2; 4 and 7 give 5.5, so 6.
  shape = (4, 12)
  assert (ranks.minimal_rank(shape, 'matrix'), ranks.maximal_rank(shape, 'matrix')) == (2, 1)
  assert ranks.rank_for_gamma((9, 36), 0.5, 'matrix') == 3
  assert [ranks.minimal_rank((16, 120), 'matrix'), ranks.maximal_rank((16, 120), 'matrix')] == [
    4,
    7,
  ]
  assert ranks.rank_for_gamma((16, 120), 0.5, 'matrix') == 6


def test_tiny_layers_are_not_worth_it():
  # The first convolution of VGG, 3 -> 64, at rank 2: 2 * 2 * 67 + 2 * 4 * 9 = 340 < 1728.
  assert ranks.is_worthwhile((3, 3, 3, 64), 'tucker')
  # 10 -> 10 at rank 4: 160 > 100; a single input: 2 * (1 + m) > m.
  assert not ranks.is_worthwhile((10, 10), 'matrix')
  assert not ranks.is_worthwhile((1, 500), 'matrix')
  # A 1x1 convolution 4 -> 4 at rank 2: 2 * 2 * 8 + 2 * 4 = 40 > 16.
  assert not ranks.is_worthwhile((1, 1, 4, 4), 'tucker')


@pytest.mark.parametrize('r_squared_from', range(1, 21))
def test_equal_ranks_cost_least(r_squared_from):
  """Proposition 2 by brute force: (r1 + r2)(m + n) with r1 r2 >= R^2 is least at r1 = r2 = R."""
  r = r_squared_from
  costs = {
    (r1, r2): r1 + r2 for r1 in range(1, r**2 + 1) for r2 in range(1, r**2 + 1) if r1 * r2 >= r**2
  }
  least = min(costs.values())
  assert least == 2 * r
  assert [pair for pair, cost in costs.items() if cost == least] == [(r, r)]


@given(KERNELS, st.floats(0, 1))
def test_low_rank_at_equal_budget(kernel, gamma):
  shape, form = kernel
  rank = ranks.rank_for_gamma(shape, gamma, form)
  budget = ranks.count(shape, rank, form, 2)
  low = ranks.low_rank_for_gamma(shape, gamma, form)
  distance = abs(ranks.count(shape, low, form, 1) - budget)
  for other in (low - 1, low + 1):
    assert other < 1 or distance <= abs(ranks.count(shape, other, form, 1) - budget)
  if form == 'matrix':
    assert low == 2 * rank and distance == 0


def test_budget_is_not_exceeded_by_rounding():
  # 0.3 * 20 is 6 in floating point, 0.1 * 3 * 10 is not 3.
  assert ranks.rank_for_budget((4, 2), 0.75, 'matrix', 1) == 1
  assert ranks.rank_for_budget((10, 10), 0.4, 'matrix', 2) == 1
  assert ranks.rank_for_budget((10, 10), 0.39, 'matrix', 2) == 0
  assert ranks.rank_for_budget((100, 100), 1.0, 'matrix', 2) == 25


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match="`form` must be one of 'matrix', 'tucker', found 'cp'"):
    ranks.count((3, 3), 1, 'cp', 2)
  with pytest.raises(
    ValueError, match="'tucker' needs a kernel with 3 to 5 axes, found shape \\(3, 3\\)"
  ):
    ranks.minimal_rank((3, 3), 'tucker')
  with pytest.raises(ValueError, match='2 to 5 axes'):
    ranks.minimal_rank((3, 3, 3, 3, 3, 3), 'matrix')
  with pytest.raises(ValueError, match='at least 1'):
    ranks.minimal_rank((3, 0), 'matrix')
  with pytest.raises(ValueError, match=r'`gamma` must be in \[0, 1\], found 1.5'):
    ranks.rank_for_gamma((3, 3), 1.5, 'matrix')
  with pytest.raises(ValueError, match='`budget` must be above 0'):
    ranks.rank_for_budget((3, 3), 0.0, 'matrix', 2)
  with pytest.raises(ValueError, match='Exactly one of `rank`, `gamma` and `budget`'):
    ranks.choose_rank((3, 3), 'matrix', 2, rank=1, gamma=0.5)
  with pytest.raises(ValueError, match='Exactly one'):
    ranks.choose_rank((3, 3), 'matrix', 2)
  with pytest.raises(TypeError, match='`rank` must be `int`'):
    ranks.choose_rank((3, 3), 'matrix', 2, rank=1.5)
