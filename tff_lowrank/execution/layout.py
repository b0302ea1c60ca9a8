"""Clients' arguments as arrays: their batches end to end, with the bounds of each."""

import collections
from collections.abc import Sequence
import dataclasses
import threading
from typing import Any
import weakref

import numpy as np
import tensorflow as tf

from tff_lowrank.execution import sequences


@dataclasses.dataclass
class Cohort:
  """Arguments of one program.

  signature: all that the program depends on.
  num_clients: of which the arguments are.
  arrays: in the order of the program's arguments after the server's and the aggregates.
  """

  signature: Any
  num_clients: int
  arrays: list[np.ndarray]


def _bucket(size: int, base: int) -> int:
  """The smallest power of `base` that is at least `size`: few sizes, few compilations."""
  bucket = 1
  while bucket < size:
    bucket *= base
  return bucket


class LaidOut:
  """Batches of several clients laid end to end, kept while the same clients come again."""

  _MAX_KEPT = 16

  def __init__(self):
    self._kept: collections.OrderedDict[Any, tuple[list[Any], list[np.ndarray]]] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def arrays(self, batches: list[sequences.Batches], capacity: int) -> list[np.ndarray]:
    """The clients' bounds, int32 [capacity + 1], then each component, [total, ...]."""
    key = (capacity, *map(id, batches))
    with self._lock:
      kept = self._kept.get(key)
      if kept is not None and all(r() is b for r, b in zip(kept[0], batches, strict=True)):
        self._kept.move_to_end(key)
        return kept[1]
    arrays = _lay_out(batches, capacity)
    with self._lock:
      references = [weakref.ref(b, lambda _: self._kept.pop(key, None)) for b in batches]
      self._kept[key] = (references, arrays)
      while len(self._kept) > self._MAX_KEPT:
        self._kept.popitem(last=False)
    return arrays


def _lay_out(batches: list[sequences.Batches], capacity: int) -> list[np.ndarray]:
  bounds = np.zeros([capacity + 1], np.int32)
  bounds[1 : len(batches) + 1] = np.cumsum([b.num_full for b in batches])
  used = int(bounds[len(batches)])
  total = _bucket(used, 4 if capacity == 1 else 2)
  arrays = [bounds]
  for component in range(len(batches[0].full)):
    parts = [b.full[component] for b in batches]
    laid_out = np.empty([total, *parts[0].shape[1:]], parts[0].dtype)
    np.concatenate(parts, out=laid_out[:used])
    arrays.append(laid_out)
  return arrays


def cohort(key: Any, clients: Sequence[Sequence[Any]], laid_out: LaidOut) -> Cohort:
  """The arguments for clients of one key, each given by its leaves."""
  # One client by itself or a block of several: few shapes, whatever the number.
  capacity = 1 if len(clients) == 1 else _bucket(len(clients), 2)
  arrays = []
  for position, leaf in enumerate(clients[0]):
    of_clients = [leaves[position] for leaves in clients]
    if isinstance(leaf, tf.Tensor):
      stacked = np.zeros([capacity, *leaf.shape], leaf.dtype.as_numpy_dtype)
      for i, tensor in enumerate(of_clients):
        stacked[i] = np.asarray(tensor)
      arrays.append(stacked)
      continue
    batches = [sequence.batches() for sequence in of_clients]
    arrays += laid_out.arrays(batches, capacity)
    arrays += batches[0].tail or []
  shapes = tuple(a.shape for a in arrays)
  return Cohort((key, capacity, shapes), len(clients), arrays)
