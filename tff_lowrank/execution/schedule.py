"""Decides which block runs next on a worker, and which partial aggregates are merged when.

Which worker runs a block depends on the order in which workers become free. Which partial
aggregates are merged with each other does not.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import heapq
from typing import Any

from tff_lowrank.execution import block_results

# A node in the tree of partial aggregates: its level, 0 for blocks, and its position in the level.
Node = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Block:
  """What is known about a block before it runs.

  steps: its clients' number of training steps, an estimate of how long it takes.
  homes: places that already have data for it, the best one first.
  """

  steps: float = 0
  homes: tuple[Any, ...] = ()


class Schedule:
  """The blocks of a stage: waiting, running, or done.

  A worker gets the longest block that has its data near it, or else the longest of all. `FAN_IN`
  consecutive blocks, which are merged with each other, are a group. The number of groups that have
  begun and are not merged is limited, so that at most `window` results wait to be merged.
  """

  def __init__(self, blocks: Sequence[Block], window: int):
    """Creates the schedule.

    Args:
      blocks: The blocks, in their order.
      window: How many results may wait to be merged; less than 2 * `FAN_IN` counts as this.
    """
    self._blocks = blocks
    self._max_begun = max(window // block_results.FAN_IN, 2)
    self._waiting = set(range(len(blocks)))
    # For each group that has begun, the blocks that are not merged.
    self._begun: dict[int, set[int]] = {}
    # Heaps of blocks, the longest on top: by place (None is any place), and of groups that have
    # begun. A block that does not wait any more stays in a heap until it comes to the top.
    self._heaps: dict[Any, list[tuple[float, int]]] = {}
    self._of_begun: list[tuple[float, int]] = []
    for block in self._waiting:
      self._push(block)

  def _push(self, block: int) -> None:
    about = self._blocks[block]
    for place in (None, *about.homes):
      heapq.heappush(self._heaps.setdefault(place, []), (-about.steps, block))

  def _begin(self, group: int) -> None:
    first = group * block_results.FAN_IN
    members = range(first, min(first + block_results.FAN_IN, len(self._blocks)))
    self._begun[group] = set(members)
    for block in self._waiting.intersection(members):
      heapq.heappush(self._of_begun, (-self._blocks[block].steps, block))

  def _top(self, heap: list[tuple[float, int]]) -> int | None:
    while heap and heap[0][1] not in self._waiting:
      heapq.heappop(heap)
    return heap[0][1] if heap else None

  def take(self, places: Iterable[Any] = ()) -> int | None:
    """Takes the block for a worker at `places`, the nearest first. None if none may start now."""
    is_full = len(self._begun) >= self._max_begun
    for place in (*places, None):
      heap = self._of_begun if is_full and place is None else self._heaps.get(place, [])
      block = self._top(heap)
      if block is None:
        continue
      group = block // block_results.FAN_IN
      if group not in self._begun:
        if is_full:
          continue
        self._begin(group)
      self._waiting.remove(block)
      return block
    return None

  def put_back(self, block: int) -> None:
    """Makes a block that was taken wait again, even if its result was merged."""
    group = block // block_results.FAN_IN
    self._waiting.add(block)
    self._begun.setdefault(group, set()).add(block)
    self._push(block)
    heapq.heappush(self._of_begun, (-self._blocks[block].steps, block))

  def merged(self, block: int) -> None:
    """Notes that the result of a block has been merged."""
    group = block // block_results.FAN_IN
    left = self._begun[group]
    left.discard(block)
    if not left:
      del self._begun[group]

  @property
  def is_empty(self) -> bool:
    """Whether no block is waiting."""
    return not self._waiting


class Tree:
  """Tells which merges are possible as results arrive, in the tree of `block_results.Fold`.

  root: the node that all blocks are merged into.
  """

  def __init__(self, num_blocks: int):
    self._counts = [num_blocks]  # The number of nodes in each level.
    while self._counts[-1] > 1:
      self._counts.append(-(-self._counts[-1] // block_results.FAN_IN))
    self._there: set[Node] = set()
    self.root: Node = (len(self._counts) - 1, 0)

  def children(self, node: Node) -> list[Node]:
    """The nodes that are merged into a node, in order."""
    level, position = node
    first = position * block_results.FAN_IN
    last = min(first + block_results.FAN_IN, self._counts[level - 1])
    return [(level - 1, i) for i in range(first, last)]

  def blocks(self, node: Node) -> range:
    """The blocks that are merged into a node."""
    level, position = node
    size = block_results.FAN_IN**level
    return range(position * size, min((position + 1) * size, self._counts[0]))

  def add(self, node: Node) -> Node | None:
    """Notes that a node is available. Returns its parent if that can be merged now, else None."""
    self._there.add(node)
    level, position = node
    if node == self.root:
      return None
    parent = (level + 1, position // block_results.FAN_IN)
    return parent if self._there.issuperset(self.children(parent)) else None

  def remove(self, node: Node) -> None:
    """Notes that a node is lost, or not needed any more."""
    self._there.discard(node)
