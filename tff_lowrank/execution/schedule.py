"""Which block runs next, and which partial aggregates are merged, where several workers run.

Nothing here knows what a worker is, or what time it is: the order in which things happen decides
who does what, and never what is merged with what.
"""

from collections.abc import Iterable, Sequence
import dataclasses
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

  The longest goes first, of those that are at home where the worker is, else of all. Only blocks of
  a window are handed out: the first ones that are not merged yet. So no more results wait than the
  window has blocks, in however bad an order they come.
  """

  def __init__(self, blocks: Sequence[Block], window: int):
    """Creates the schedule.

    Args:
      blocks: The blocks, in their order.
      window: How many results may wait to be merged; at least 2 times `FAN_IN` count.
    """
    self._blocks = blocks
    self._window = max(window, 2 * block_results.FAN_IN)
    self._waiting = set(range(len(blocks)))
    self._first = 0  # All blocks before it are merged.
    self._merged: set[int] = set()

  def take(self, places: Iterable[Any] = ()) -> int | None:
    """The block for a worker that is at `places`, the nearest first; None if there is none now."""
    last = min(self._first + self._window, len(self._blocks))
    allowed = [b for b in range(self._first, last) if b in self._waiting]
    if not allowed:
      return None
    places = list(places)

    def distance(block: int) -> int:
      homes = self._blocks[block].homes
      return next((i for i, place in enumerate(places) if place in homes), len(places))

    chosen = min(allowed, key=lambda b: (distance(b), -self._blocks[b].steps, b))
    self._waiting.remove(chosen)
    return chosen

  def put_back(self, block: int) -> None:
    """A block that was taken, and must run again, merged or not."""
    self._waiting.add(block)
    self._merged.discard(block)
    self._first = min(self._first, block)

  def merged(self, block: int) -> None:
    """The result of a block has been merged, and waits no more."""
    self._merged.add(block)
    while self._first in self._merged:
      self._first += 1

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
