"""Clients' arguments as arrays: the concatenated batches of all clients, and each one's range."""

import collections
from collections.abc import Sequence
import dataclasses
import threading
from typing import Any
import weakref

import numpy as np
import tensorflow as tf

from tff_lowrank.execution import device_memory
from tff_lowrank.execution import sequences


@dataclasses.dataclass
class Cohort:
  """The clients' arguments of one program.

  signature: everything that the compiled program depends on.
  num_clients: the number of clients.
  capacity: the largest number of clients that the program can run.
  num_steps: the number of full batches of each client; None if it may differ between clients.
  arrays: the program's arguments after the server's values and the aggregates, in order; arrays,
    tensors, or buffers on the device.
  """

  signature: Any
  num_clients: int
  capacity: int
  num_steps: int | None
  arrays: list[Any]

  @property
  def is_full(self) -> bool:
    """Whether all clients have the same number of steps, and `capacity` is `num_clients`."""
    return self.num_steps is not None


def _bucket(size: int, base: int) -> int:
  """The smallest power of `base` that is at least `size`. Few sizes need few compilations."""
  bucket = 1
  while bucket < size:
    bucket *= base
  return bucket


class LaidOut:
  """Concatenates batches of several clients, and keeps recent ones on the device."""

  _MAX_KEPT = 16

  def __init__(self, memory: device_memory.DeviceMemory):
    """`memory`: of the device that the batches are for."""
    self.memory = memory
    self._kept: collections.OrderedDict[Any, tuple[list[Any], list[Any]]] = (
      collections.OrderedDict()
    )
    self._lock = threading.Lock()

  def arrays(self, batches: list[sequences.Batches], capacity: int, is_exact: bool) -> list[Any]:
    """The clients' batches as buffers.

    They are: the bounds of each client's batches, int32 [capacity + 1]; each component of all full
    batches, [total, ...]; and if last batches are smaller, each component of these,
    [capacity, ...].
    """
    key = (capacity, is_exact, *map(id, batches))
    with self._lock:
      kept = self._kept.get(key)
      if kept is not None and all(r() is b for r, b in zip(kept[0], batches, strict=True)):
        self._kept.move_to_end(key)
        return kept[1]
    arrays = [self.memory.put(a) for a in _lay_out(batches, capacity, is_exact)]
    with self._lock:
      references = [weakref.ref(b, lambda _: self._kept.pop(key, None)) for b in batches]
      self._kept[key] = (references, arrays)
      while len(self._kept) > self._MAX_KEPT or not self.memory.has_room_for_data(self._num_bytes):
        self._kept.popitem(last=False)
    return arrays

  @property
  def _num_bytes(self) -> int:
    return sum(a.nbytes for _, arrays in self._kept.values() for a in arrays)


def _lay_out(batches: list[sequences.Batches], capacity: int, is_exact: bool) -> list[np.ndarray]:
  bounds = np.zeros([capacity + 1], np.int32)
  bounds[1 : len(batches) + 1] = np.cumsum([b.num_full for b in batches])
  used = int(bounds[len(batches)])
  total = used if is_exact else _bucket(used, 4 if capacity == 1 else 2)
  arrays = [bounds]
  for component in range(len(batches[0].full)):
    parts = [b.full[component] for b in batches]
    laid_out = np.empty([total, *parts[0].shape[1:]], parts[0].dtype)
    np.concatenate(parts, out=laid_out[:used])
    laid_out[used:] = 0
    arrays.append(laid_out)
  tails = zip(*(b.tail or [] for b in batches), strict=True)
  return arrays + [device_memory.stack(component, capacity) for component in tails]


def num_steps(clients: Sequence[Sequence[Any]]) -> int | None:
  """The number of full batches in each data set of each client; None if it differs."""
  counts = {
    leaf.batches().num_full
    for leaves in clients
    for leaf in leaves
    if not isinstance(leaf, tf.Tensor)
  }
  return counts.pop() if len(counts) == 1 else None


def exact_signature(key: Any, num_clients: int, num_steps: int | None) -> Any:
  """The signature of a cohort whose arrays have exactly this size."""
  return key, num_clients, num_steps


def cohort(
  key: Any,
  clients: Sequence[Sequence[Any]],
  laid_out: LaidOut,
  num_steps: int | None = None,
) -> Cohort:
  """The arguments of clients with the same `key`; `clients` has the leaves of each client's values.

  With `num_steps`, the number of full batches that all clients have, arrays have exactly the size
  that these clients need. This is the fastest program, but it cannot run other cohorts. Without
  it, sizes are powers of two.
  """
  is_exact = num_steps is not None
  # The capacity is one of a few sizes, whatever the number of clients.
  capacity = len(clients) if is_exact or len(clients) == 1 else _bucket(len(clients), 2)
  arrays = []
  for position, leaf in enumerate(clients[0]):
    of_clients = [leaves[position] for leaves in clients]
    if isinstance(leaf, tf.Tensor):
      arrays.append(laid_out.memory.stack(of_clients, capacity))
      continue
    batches = [sequence.batches() for sequence in of_clients]
    arrays += laid_out.arrays(batches, capacity, is_exact)
  signature = exact_signature(key, len(clients), num_steps)
  if not is_exact:
    signature = key, capacity, tuple(a.shape for a in arrays)
  return Cohort(signature, len(clients), capacity, num_steps, arrays)
