"""Which block runs next, and which partial aggregates are merged, where several workers run.

Nothing here knows what a worker is, or what time it is: the order in which things happen decides
who does what, and never what is merged with what.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import heapq
from typing import Any

from tff_lowrank.execution import block_results

# A place in the tree of partial aggregates: its level, 0 for blocks, and its position there.
Node = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Block:
  """What is known of a block before it runs.

  steps: of its clients' training, a measure of how long it takes.
  homes: places where what it needs lies already, the best one first.
  """

  steps: float = 0
  homes: tuple[Any, ...] = ()


class Schedule:
  """The blocks of a stage: waiting, running, or done.

  The longest goes first, of those that are at home where the worker is, else of all. Blocks that
  are merged with each other, `FAN_IN` neighbours, are a group. Only so many groups are begun at a
  time as the window has room for, so that no more results wait, in however bad an order they come.
  """

  def __init__(self, blocks: Sequence[Block], window: int):
    """Creates the schedule.

    Args:
      blocks: The blocks, in their order.
      window: How many results may wait to be merged; at least 2 times `FAN_IN` count.
    """
    self._blocks = blocks
    self._max_begun = max(window // block_results.FAN_IN, 2)
    self._waiting = set(range(len(blocks)))
    # Of each group that has begun, the blocks that are not merged.
    self._begun: dict[int, set[int]] = {}
    # Blocks by place, None is any, and those of groups that have begun: the longest on top. One
    # that waits no more is left where it is until it is found.
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
    """The block for a worker that is at `places`, the nearest first; None if there is none now."""
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
    """A block that was taken, and must run again, merged or not."""
    group = block // block_results.FAN_IN
    self._waiting.add(block)
    self._begun.setdefault(group, set()).add(block)
    self._push(block)
    heapq.heappush(self._of_begun, (-self._blocks[block].steps, block))

  def merged(self, block: int) -> None:
    """The result of a block has been merged, and waits no more."""
    group = block // block_results.FAN_IN
    left = self._begun[group]
    left.discard(block)
    if not left:
      del self._begun[group]

  @property
  def is_empty(self) -> bool:
    """Whether no block waits."""
    return not self._waiting


class Tree:
  """Which merges are possible as results arrive, in the tree of `block_results.Fold`.

  root: the node that holds all, once it is there.
  """

  def __init__(self, num_blocks: int):
    self._counts = [num_blocks]  # Of the nodes of each level.
    while self._counts[-1] > 1:
      self._counts.append(-(-self._counts[-1] // block_results.FAN_IN))
    self._there: set[Node] = set()
    self.root: Node = (len(self._counts) - 1, 0)

  def children(self, node: Node) -> list[Node]:
    """What a node is merged of, in the order of the merges."""
    level, position = node
    first = position * block_results.FAN_IN
    last = min(first + block_results.FAN_IN, self._counts[level - 1])
    return [(level - 1, i) for i in range(first, last)]

  def blocks(self, node: Node) -> range:
    """The blocks in a node."""
    level, position = node
    size = block_results.FAN_IN**level
    return range(position * size, min((position + 1) * size, self._counts[0]))

  def add(self, node: Node) -> Node | None:
    """Notes that a node is there; returns its parent if that can be merged now."""
    self._there.add(node)
    level, position = node
    if node == self.root:
      return None
    parent = (level + 1, position // block_results.FAN_IN)
    return parent if self._there.issuperset(self.children(parent)) else None

  def remove(self, node: Node) -> None:
    """Notes that a node is lost, or needed no more."""
    self._there.discard(node)
