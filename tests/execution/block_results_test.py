import numpy as np
import pytest

from tff_lowrank.execution import block_results
from tff_lowrank.execution import schedule


def concatenate(a, b):
  """Shows in which order, and in which groups, partial aggregates were merged."""
  return f'({a}{b})'


def tree_by_hand(names):
  """Level by level: 16 neighbours, one by one, make one of the next."""
  while len(names) > 1:
    groups = [names[i : i + 16] for i in range(0, len(names), 16)]
    names = []
    for group in groups:
      total = group[0]
      for name in group[1:]:
        total = concatenate(total, name)
      names.append(total)
  return names[0]


@pytest.mark.parametrize('count', [1, 2, 15, 16, 17, 32, 40, 256, 257, 300, 4097])
def test_the_tree_depends_on_the_number_alone(count):
  names = [f'{i},' for i in range(count)]
  fold = block_results.Fold(concatenate)
  assert fold.is_empty
  for name in names:
    fold.add(name)
  assert fold.total() == tree_by_hand(names) and not fold.is_empty


def test_up_to_the_fan_in_it_is_a_sum_from_left_to_right():
  values = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
  fold = block_results.Fold(np.add)
  for value in values:
    fold.add(value)
  total = values[0]
  for value in values[1:]:
    total = total + value
  np.testing.assert_array_equal(fold.total(), total)


@pytest.mark.parametrize('count', [17, 33, 256, 300])
def test_whoever_merges_the_parts_it_is_the_same_tree(count):
  names = [f'{i},' for i in range(count)]
  whole = block_results.Fold(concatenate)
  for name in names:
    whole.add(name)
  parts = block_results.Fold(concatenate)
  for first in range(0, count, 16):
    group = names[first : first + 16]
    total = group[0]
    for name in group[1:]:
      total = concatenate(total, name)
    parts.add(total, level=1)
  assert parts.total() == whole.total()


@pytest.mark.parametrize('count', [1, 5, 16, 17, 40, 256, 257, 600])
@pytest.mark.parametrize('seed', [0, 1])
def test_a_schedule_s_tree_is_the_same_in_any_order(count, seed):
  names = [f'{i},' for i in range(count)]
  fold = block_results.Fold(concatenate)
  for name in names:
    fold.add(name)
  tree, found = schedule.Tree(count), {}

  def add(node, value):
    found[node] = value
    parent = tree.add(node)
    if parent is not None:
      total = None
      for child in tree.children(parent):
        part = found.pop(child)
        tree.remove(child)
        total = part if total is None else concatenate(total, part)
      add(parent, total)

  for block in np.random.default_rng(seed).permutation(count):
    add((0, int(block)), names[block])
  assert list(found) == [tree.root]
  assert found[tree.root] == fold.total()
