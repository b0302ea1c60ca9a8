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
from tff_lowrank.execution import ray_worker
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
    self, specs: Sequence[Any], reference: Any, worker: ray_cluster.WorkerHandle, traffic: Traffic
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
    raise ray_worker.LostError(
      'A value of a client is lost, with the nodes that all copies of it were on. Go on from the '
      'last checkpoint.'
    )


class Shared:
  """What runs of computations share: the workers, and what is in the store of objects."""

  def __init__(self, pool: ray_cluster.Pool):
    """`pool` has the workers."""
    self.ray = ray_cluster.import_ray()
    self.pool = pool
    self.traffic = Traffic()
    self.known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()
    self.values: weakref.WeakSet[RayValue] = weakref.WeakSet()
    self._steps: dict[tuple[str, str], int] = {}
    self._losses = 0
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
    """Copies the values that are on one node only since another was lost."""
    if self._losses == self.pool.num_losses:
      return
    self._losses = self.pool.num_losses
    alive = {node['NodeID'] for node in self.ray.nodes() if node['Alive']}
    for value in list(self.values):
      value.copies = [c for c in value.copies if c[1] in alive] or value.copies
      others = [w for w in self.pool.workers if w.node != value.copies[0][1]]
      if len(value.copies) == 1 and others:
        chosen = others[hash(value) % len(others)]
        copying = chosen.actor.copy.options(num_returns=2).remote(value.copies[0][0])
        with contextlib.suppress(self.ray.exceptions.RayError):
          self.ray.get(copying[0])
          value.copies.append((copying[1], chosen.node))

  def value(
    self, specs: Sequence[Any], reference: Any, worker: ray_cluster.WorkerHandle
  ) -> RayValue:
    """A value that a worker has left in the store."""
    value = RayValue(specs, reference, worker, self.traffic)
    self.values.add(value)
    return value

  def num_steps(self, description: client_datasets.ClientDataset) -> int:
    """Of a client's data set; as it was when a worker last opened it where no one says."""
    if description.num_steps is not None:
      return description.num_steps
    return self._steps.get((description.source.identity, description.client_id), 0)

  def note_steps(
    self, slots: Sequence[Any], clients: Sequence[int], steps: Sequence[int | None]
  ) -> None:
    """Notes how many steps clients had whose data sets a worker has opened."""
    for values in slots:
      for client, count in zip(clients, steps, strict=True):
        for leaf in sequences.flatten(values[client]):
          if isinstance(leaf, transport.Described) and count is not None:
            described = leaf.description
            self._steps[described.source.identity, described.client_id] = count

  def window(self, bytes_of_block: int) -> int:
    """How many results may wait, by the memory there is for them."""
    memory = self.ray.cluster_resources().get('object_store_memory', 1 << 30)
    return int(_WAITING_PART * memory / max(bytes_of_block, 1))
