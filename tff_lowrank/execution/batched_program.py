"""Batched programs: each operation runs for all clients of a block at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.experimental import enable_x64
import jax.numpy as jnp
import numpy as np
import tensorflow as tf

from tff_lowrank.execution import hlo
from tff_lowrank.execution import layout
from tff_lowrank.execution import native
from tff_lowrank.execution import xla_program


class BatchedProgram:
  """One client's part of a stage, turned by `jax.vmap` into that of all clients of a block.

  If all clients have the same number of batches, all take the same number of steps. Otherwise a
  client that has finished keeps its state while the others continue.
  """

  def __init__(
    self,
    part: xla_program.ClientPart,
    cohort: layout.Cohort,
    server: Sequence[Any],
    zeros: Sequence[Any],
    precision: str,
  ):
    """Translates the part that a client of `cohort` runs.

    Args:
      part: What each client runs.
      cohort: A block of clients.
      server: The leaves of values that all clients share.
      zeros: The leaves of the aggregates before the first client.
      precision: One of `hlo.PRECISIONS`.

    Raises `hlo.UnsupportedError`, or an error of TensorFlow or XLA, if it cannot be translated.
    """
    self._part, self._cohort = part, cohort
    self._num_server, self._num_totals = len(server), len(zeros)
    client_specs = [tf.TensorSpec(t.shape, t.dtype) for t in server]
    for entry, arrays in zip(part.layout, self._by_leaf(cohort.arrays), strict=True):
      client_specs += self._specs(entry, arrays)
    self._client, self._variables = _translate(self._run_client, client_specs, part, precision)
    zero_specs = [tf.TensorSpec(t.shape, t.dtype) for t in zeros]
    accumulate = lambda *both: part.accumulate(both[: len(zeros)], both[len(zeros) :])  # noqa: E731
    self._accumulate, _ = _translate(accumulate, zero_specs * 2, part, precision)
    arguments = [np.int32(0), *server, *zeros, *cohort.arrays]
    self._shapes = [jax.ShapeDtypeStruct(a.shape, _dtype(a)) for a in arguments]

  def lower(self, device: Any) -> str:
    """The program in StableHLO; its arguments are those of `xla_program.program`."""
    with enable_x64(), jax.default_device(device):
      lowered = jax.jit(self._run, keep_unused=True).lower(*self._shapes)
      return str(lowered.compiler_ir('stablehlo'))

  # -- One client --------------------------------------------------------------------------

  def _by_leaf(self, arrays: Sequence[Any]) -> list[list[Any]]:
    """The arrays of a cohort, grouped by the leaf of a client's values that they are for."""
    remaining, result = iter(arrays), []
    for entry in self._part.layout:
      count = 1 if entry is None else 1 + entry[0] * (1 + entry[1])
      result.append([next(remaining) for _ in range(count)])
    return result

  def _specs(self, entry: Any, arrays: Sequence[np.ndarray]) -> list[tf.TensorSpec]:
    """The specs of one client's arguments for a leaf."""
    if entry is None:
      return [tf.TensorSpec(arrays[0].shape[1:], arrays[0].dtype)]
    _, *components = arrays
    full, tail = components[: entry[0]], components[entry[0] :]
    steps = self._cohort.num_steps
    if steps is None:
      specs = [tf.TensorSpec([], tf.int32)] * 2
      specs += [tf.TensorSpec(a.shape, a.dtype) for a in full]
    else:
      specs = [tf.TensorSpec([steps, *a.shape[1:]], a.dtype) for a in full]
    return specs + [tf.TensorSpec(a.shape[1:], a.dtype) for a in tail]

  def _run_client(self, *arguments: tf.Tensor) -> list[tf.Tensor]:
    remaining = iter(arguments)
    server = [next(remaining) for _ in range(self._num_server)]
    leaves, steps = [], self._cohort.num_steps
    for entry in self._part.layout:
      if entry is None:
        leaves.append(next(remaining))
        continue
      components, has_tail = entry
      low, high = (next(remaining), next(remaining)) if steps is None else (0, steps)
      full = [next(remaining) for _ in range(components)]
      tail = [next(remaining) for _ in range(components)] if has_tail else None
      leaves.append(xla_program.SymbolicBatches(full, low, high, tail))
    to_add, kept = self._part.run(server, leaves)
    return [*to_add, *kept]

  # -- All clients -------------------------------------------------------------------------

  def _run(self, num_clients: jax.Array, *arguments: jax.Array) -> list[jax.Array]:
    server = arguments[: self._num_server]
    totals = arguments[self._num_server : self._num_server + self._num_totals]
    of_clients: list[Any] = []
    axes: list[int | None] = []
    arrays = arguments[self._num_server + self._num_totals :]
    for entry, of_leaf in zip(self._part.layout, self._by_leaf(arrays), strict=True):
      if entry is None:
        of_clients += of_leaf
        axes += [0]
        continue
      bounds, *components = of_leaf
      full, tail = components[: entry[0]], components[entry[0] :]
      if self._cohort.num_steps is None:
        of_clients += [bounds[:-1], bounds[1:], *full, *tail]
        axes += [0, 0, *([None] * len(full)), *([0] * len(tail))]
      else:
        of_clients += [a.reshape(self._cohort.capacity, -1, *a.shape[1:]) for a in full]
        of_clients += tail
        axes += [0] * len(components)

    def client(*leaves: jax.Array) -> list[jax.Array]:
      return self._client(*server, *leaves, *self._variables)

    results = jax.vmap(client, axes)(*of_clients)
    to_add = results[: self._num_totals]
    kept = results[self._num_totals : self._num_totals + len(self._part.kept_types)]
    if not self._cohort.is_full:
      is_on = jnp.arange(self._cohort.capacity) < num_clients
      to_add = [
        jnp.where(is_on.reshape(-1, *[1] * zero.ndim), value, zero)
        for value, zero in zip(to_add, totals, strict=True)
      ]
    return [*self._total(totals, to_add), *kept]

  def _total(self, totals: Sequence[jax.Array], values: Sequence[jax.Array]) -> list[jax.Array]:
    """`totals` with the values of all clients, [capacity, ...], added."""
    if self._accumulate.is_sum(self._num_totals):
      return [total + jnp.sum(v, 0, v.dtype) for total, v in zip(totals, values, strict=True)]
    count = self._cohort.capacity
    while count > 1:  # Adds one half to the other, until one is left.
      half = count // 2
      merged = jax.vmap(self._accumulate)(
        *(v[:half] for v in values), *(v[half : 2 * half] for v in values)
      )
      values = [
        jnp.concatenate([m, v[2 * half : count]]) for m, v in zip(merged, values, strict=False)
      ]
      count -= half
    return self._accumulate(*totals, *(v[0] for v in values))[: self._num_totals]


def _dtype(array: Any) -> np.dtype:
  return array.dtype.as_numpy_dtype if isinstance(array, tf.Tensor) else array.dtype


def _translate(
  function: Callable[..., list[tf.Tensor]],
  specs: Sequence[tf.TensorSpec],
  part: xla_program.ClientPart,
  precision: str,
) -> tuple[hlo.Function, list[np.ndarray]]:
  """A TensorFlow function as a jax function, and the values to append to its arguments."""
  traced, handles = native.trace(function, specs)
  return hlo.Function(traced.hlo, precision), part.tracer.initial_values(handles)
