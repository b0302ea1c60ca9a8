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


@pytest.mark.parametrize('window, most', [(0, 32), (40, 32), (64, 64), (10**6, 500)])
def test_no_more_results_wait_than_the_window_has_room_for(window, most):
  rng = np.random.default_rng(0)
  plan = schedule.Schedule(blocks(*rng.integers(1, 100, 500)), window)
  waiting, taken, found = set(), [], 0
  while not plan.is_empty:
    block = plan.take()
    if block is not None:
      taken.append(block)
      waiting.add(block)
      found = max(found, len(waiting))
      continue
    # All that may be there is there: whole groups, which can be merged.
    groups = {b // 16 for b in waiting}
    assert waiting == {b for g in groups for b in range(16 * g, min(16 * g + 16, 500))}
    done = int(rng.choice(sorted(groups)))
    for b in range(16 * done, min(16 * done + 16, 500)):
      plan.merged(b)
      waiting.remove(b)
  assert found == most and sorted(taken) == list(range(500))


def test_where_the_window_is_full_blocks_of_groups_that_have_begun_go_first():
  steps = [1] * 64
  steps[0], steps[20], steps[40] = 50, 40, 100
  plan = schedule.Schedule(blocks(*steps), window=32)
  assert [plan.take(), plan.take()] == [40, 0]
  # Block 20 is the longest, but of a third group.
  rest = [plan.take() for _ in range(30)]
  assert set(rest) == (set(range(0, 16)) | set(range(32, 48))) - {0, 40}
  assert plan.take() is None
  for block in range(32, 48):
    plan.merged(block)
  assert plan.take() == 20


def test_a_block_that_is_lost_runs_again_even_if_it_was_merged():
  plan = schedule.Schedule(blocks(*[1] * 100), window=32)
  for block in range(100):
    assert plan.take() == block
    if block % 16 == 15 or block == 99:
      for other in range(block - block % 16, block + 1):
        plan.merged(other)
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
