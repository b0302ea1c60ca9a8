"""What computations on a Ray cluster share: what is in its store of objects, and what passes by."""

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

# Of the memory of the cluster's stores of objects, what results may take that wait to be merged.
_WAITING_PART = 0.3


@dataclasses.dataclass
class Traffic:
  """Bytes of arrays that passed through the process that runs the program.

  sent: arguments of computations, and data sets that exist nowhere else.
  received: aggregates, and clients' values that were fetched.
  blocks: how many blocks were run, those that ran twice among them.
  """

  sent: int = 0
  received: int = 0
  blocks: int = 0


class RayValue(stored.StoredValue):
  """A client's value in Ray's store of objects, in one copy or in two, on different nodes."""

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
      'A value of a client is lost, with the nodes that all copies of it were on. Go on from the '
      'last checkpoint.'
    )


class Shared:
  """What runs of computations share: the workers, and what is in the store of objects."""

  def __init__(self, pool: ray_pool.Pool):
    """`pool` has the workers."""
    self.ray = ray_cluster.import_ray()
    self.pool = pool
    self.traffic = Traffic()
    self.known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    self.values: weakref.WeakSet[RayValue] = weakref.WeakSet()
    self._places: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    self._steps: dict[tuple[str, str], int] = {}
    self._nodes: frozenset[str] = frozenset()  # That there were workers on at the last check.
    self._plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

  def plan(self, plan: plan_lib.Plan) -> transport.Held:
    """Where the serialised plan is."""
    if plan not in self._plans:
      self._plans[plan] = held = transport.Held((self.ray.put(plan.block.proto),))
      weakref.finalize(plan, self._forget, held)
    return self._plans[plan]

  def _forget(self, held: transport.Held) -> None:
    for worker in self.pool.workers:
      with contextlib.suppress(Exception):
        worker.actor.forget.remote(held)

  def keep_two_copies(self) -> None:
    """Copies the values that are on one node with workers only, where there are others.

    Ray takes half a minute to notice that a node is gone, workers are noticed at once.
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
    """A value that a worker has left in the store."""
    value = RayValue(specs, reference, worker, self.traffic)
    self.values.add(value)
    return value

  def num_steps(self, description: client_datasets.ClientDataset) -> int:
    """Of a client's data set; as it was when a worker last opened it where no one says."""
    if description.num_steps is not None:
      return description.num_steps
    return self._steps.get((description.source.identity, description.client_id), 0)

  def places_of(self, leaf: Any) -> tuple[Any, ...]:
    """Where a data set that travels as arrays was used last, and is kept."""
    return self._places.get(leaf.memo, ()) if isinstance(leaf, sequences.Dataset) else ()

  def note(
    self,
    slots: Sequence[Any],
    clients: Sequence[int],
    steps: Sequence[int | None],
    worker: ray_pool.WorkerHandle,
  ) -> None:
    """Notes where clients ran, and how many steps they had where a worker opened their data."""
    for values in slots:
      for client, count in zip(clients, steps, strict=True):
        for leaf in sequences.flatten(values[client]):
          if isinstance(leaf, sequences.Dataset) and leaf.memo in self.known:
            self._places[leaf.memo] = worker.places
          elif isinstance(leaf, transport.Described) and count is not None:
            described = leaf.description
            self._steps[described.source.identity, described.client_id] = count

  def window(self, bytes_of_block: int) -> int:
    """How many results may wait, by the memory there is for them."""
    memory = self.ray.cluster_resources().get('object_store_memory', 1 << 30)
    return int(_WAITING_PART * memory / max(bytes_of_block, 1))
