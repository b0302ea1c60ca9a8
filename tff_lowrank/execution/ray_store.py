"""Values in a Ray cluster's object store, and other data that computations on it share."""

from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any
import weakref

import numpy as np

from tff_lowrank.execution import client_datasets
from tff_lowrank.execution import plan as plan_lib
from tff_lowrank.execution import ray_cluster
from tff_lowrank.execution import ray_pool
from tff_lowrank.execution import sequences
from tff_lowrank.execution import stored
from tff_lowrank.execution import transport

# The fraction of the object stores' memory for results that wait to be merged.
_WAITING_PART = 0.3


@dataclasses.dataclass
class Traffic:
  """The bytes of arrays that passed through the process that runs the program.

  sent: arguments of computations, and data sets that exist only in this process.
  received: aggregates, and clients' values that were fetched.
  blocks: the number of blocks that were run; a block that ran twice counts twice.
  """

  sent: int = 0
  received: int = 0
  blocks: int = 0


class RayValue(stored.StoredValue):
  """A client's value in Ray's object store: one copy, or two on different nodes."""

  def __init__(
    self, specs: Sequence[Any], reference: Any, worker: ray_pool.WorkerHandle, traffic: Traffic
  ):
    super().__init__(specs)
    self._traffic = traffic
    self.copies = [(reference, worker.node)]
    self.places = worker.places

  @property
  def references(self) -> tuple[Any, ...]:
    return tuple(reference for reference, _ in self.copies)

  def fetch(self) -> list[np.ndarray]:
    ray = ray_cluster.import_ray()
    for reference in self.references:
      with contextlib.suppress(ray.exceptions.ObjectLostError, ray.exceptions.RayActorError):
        arrays = ray.get(reference)
        self._traffic.received += sum(a.nbytes for a in arrays)
        return arrays
    raise stored.LostError(
      'A value of a client is lost: all nodes that had a copy of it are gone. Resume from the '
      'last checkpoint.'
    )


class Shared:
  """Shared by the runs of computations: the workers, and references to the object store."""

  def __init__(self, pool: ray_pool.Pool):
    """`pool`: the workers."""
    self.ray = ray_cluster.import_ray()
    self.pool = pool
    self.traffic = Traffic()
    self.known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    self.values: weakref.WeakSet[RayValue] = weakref.WeakSet()
    self._places: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    self._steps: dict[tuple[str, str], int] = {}
    self._nodes: frozenset[str] = frozenset()  # The nodes with workers at the last check.
    self._plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

  def plan(self, plan: plan_lib.Plan) -> transport.Held:
    """The serialised plan, in the object store."""
    if plan not in self._plans:
      self._plans[plan] = held = transport.Held((self.ray.put(plan.block.proto),))
      weakref.finalize(plan, self._forget, held)
    return self._plans[plan]

  def _forget(self, held: transport.Held) -> None:
    for worker in self.pool.workers:
      with contextlib.suppress(Exception):
        worker.actor.forget.remote(held)

  def keep_two_copies(self) -> None:
    """Makes a second copy of values that only one node with workers has, if there are other nodes.

    Ray notices a lost node only after half a minute, but a lost worker at once.
    """
    nodes = frozenset(worker.node for worker in self.pool.workers)
    if nodes == self._nodes:
      return
    self._nodes = nodes
    copying: list[Any] = []
    for value in list(self.values):
      value.copies.sort(key=lambda copy: copy[1] not in nodes)
      others = [w for w in self.pool.workers if w.node not in {node for _, node in value.copies}]
      if sum(node in nodes for _, node in value.copies) == 1 and others:
        chosen = others[len(copying) % len(others)]
        outputs = chosen.actor.copy.options(num_returns=2).remote(value.copies[0][0])
        copying.append((value, chosen, outputs))
    for value, chosen, (done, reference) in copying:
      with contextlib.suppress(self.ray.exceptions.RayError):
        self.ray.get(done)
        value.copies.insert(1, (reference, chosen.node))
        del value.copies[2:]

  def value(self, specs: Sequence[Any], reference: Any, worker: ray_pool.WorkerHandle) -> RayValue:
    """A value that a worker has put in the store."""
    value = RayValue(specs, reference, worker, self.traffic)
    self.values.add(value)
    return value

  def num_steps(self, description: client_datasets.ClientDataset) -> int:
    """The number of batches of a client's data set. If not given, that of its last use, or 0."""
    if description.num_steps is not None:
      return description.num_steps
    return self._steps.get((description.source.identity, description.client_id), 0)

  def places_of(self, leaf: Any) -> tuple[Any, ...]:
    """The places that keep a data set sent as arrays, since it was last used there."""
    return self._places.get(leaf.memo, ()) if isinstance(leaf, sequences.Dataset) else ()

  def note(
    self,
    slots: Sequence[Any],
    clients: Sequence[int],
    steps: Sequence[int | None],
    worker: ray_pool.WorkerHandle,
  ) -> None:
    """Notes which worker ran the clients, and the steps of data sets that it opened."""
    for values in slots:
      for client, count in zip(clients, steps, strict=True):
        for leaf in sequences.flatten(values[client]):
          if isinstance(leaf, sequences.Dataset) and leaf.memo in self.known:
            self._places[leaf.memo] = worker.places
          elif isinstance(leaf, transport.Described) and count is not None:
            described = leaf.description
            self._steps[described.source.identity, described.client_id] = count

  def window(self, bytes_of_block: int) -> int:
    """How many results may wait to be merged, by the memory for them."""
    memory = self.ray.cluster_resources().get('object_store_memory', 1 << 30)
    return int(_WAITING_PART * memory / max(bytes_of_block, 1))
