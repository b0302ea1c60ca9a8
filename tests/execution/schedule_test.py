import numpy as np
import pytest

from tff_lowrank.execution import schedule


def blocks(*steps):
  return [schedule.Block(count) for count in steps]


def test_the_longest_goes_first():
  plan = schedule.Schedule(blocks(3, 9, 1, 9), window=100)
  assert [plan.take() for _ in range(5)] == [1, 3, 0, 2, None]
  assert plan.is_empty


def test_a_block_goes_where_it_is_at_home_the_nearest_place_first():
  known = [
    schedule.Block(9),
    schedule.Block(1, ('worker 1', 'node a')),
    schedule.Block(2, ('worker 7', 'node a')),
    schedule.Block(3, ('worker 8', 'node b')),
  ]
  plan = schedule.Schedule(known, window=100)
  assert plan.take(('worker 1', 'node a')) == 1
  assert plan.take(('worker 1', 'node a')) == 2  # On the same node.
  assert plan.take(('worker 1', 'node a')) == 0  # None at home: the longest of all.
  assert plan.take(('worker 1', 'node a')) == 3


def test_no_more_results_wait_than_the_window_has_blocks():
  rng = np.random.default_rng(0)
  plan = schedule.Schedule(blocks(*rng.integers(1, 100, 500)), window=40)
  taken, most, merged = [], 0, 0
  while not plan.is_empty:
    block = plan.take()
    if block is not None:
      taken.append(block)
    most = max(most, len(taken) - merged)
    if block is None:  # All that may be there is there: what comes next in order is merged.
      while merged in taken:
        plan.merged(merged)
        merged += 1
  assert most == 40
  assert sorted(taken) == list(range(500))


def test_a_block_that_is_lost_runs_again_even_if_it_was_merged():
  plan = schedule.Schedule(blocks(*[1] * 100), window=32)
  for block in range(100):
    assert plan.take() == block
    plan.merged(block)
  plan.put_back(3)
  assert not plan.is_empty
  assert plan.take() == 3
  plan.merged(3)
  assert plan.take() is None and plan.is_empty


@pytest.mark.parametrize('count', [17, 40, 300])
def test_the_blocks_of_a_node_are_those_under_it(count):
  tree = schedule.Tree(count)
  assert list(tree.blocks(tree.root)) == list(range(count))
  for child in tree.children(tree.root):
    under = list(tree.blocks(child))
    assert under == sorted({b for b in under if b < count})
  joined = [b for child in tree.children(tree.root) for b in tree.blocks(child)]
  assert joined == list(range(count))


def test_a_parent_can_be_merged_once_all_its_parts_are_there():
  tree = schedule.Tree(20)
  assert [tree.add((0, i)) for i in range(15)] == [None] * 15
  assert tree.add((0, 19)) is None
  assert tree.add((0, 15)) == (1, 0)
  tree.remove((0, 15))
  assert tree.add((0, 15)) == (1, 0)
  assert tree.add((1, 0)) is None
  for i in (16, 17):
    assert tree.add((0, i)) is None
  assert tree.add((0, 18)) == (1, 1)
  assert tree.add((1, 1)) == tree.root == (2, 0)
  assert tree.add(tree.root) is None
