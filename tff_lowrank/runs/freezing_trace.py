"""Records data for plots of freezing that the means per round do not contain."""

from collections.abc import Mapping, Sequence
import io
import pathlib
from typing import Any

import numpy as np

from tff_lowrank import freezing
from tff_lowrank.reports import run_files
from tff_lowrank.simulation import file_operations

FILE = run_files.FREEZING
NUM_SAMPLES = 64
NEVER = -1


class FreezingTrace:
  """The round when each parameter first froze, and a few sampled parameters in every round.

  The file has `names` (of the tensors), `shape_I` (int64, the shape of tensor I),
  `first_frozen_I` (int32, flat: the round after which it was first frozen, -1 if never), and for
  the sampled parameters `sample_tensor` and `sample_index` (int64 [samples]), `sample_value`
  (float32 [rounds, samples]) and `sample_frozen` (bool [rounds, samples]: frozen in the next
  round).
  """

  def __init__(self, settings: freezing.Settings, seed: int, names: Sequence[str]):
    """Creates an empty trace.

    Args:
      settings: How parameters are frozen.
      seed: Seeds the choice of the sampled parameters.
      names: The names of the trainable tensors.
    """
    self._settings = settings
    self._names = names
    self._seed = seed
    self._round = 0
    self._first: list[np.ndarray] = []
    self._shapes: list[np.ndarray] = []
    self._samples: list[tuple[int, int]] = []
    self._values: list[list[float]] = []
    self._frozen: list[list[bool]] = []

  def _start(self, weights: list[np.ndarray]) -> None:
    self._shapes = [np.array(w.shape, np.int64) for w in weights]
    self._first = [np.full(w.size, NEVER, np.int32) for w in weights]
    ends = np.cumsum([w.size for w in weights])
    rng = np.random.default_rng(self._seed)
    chosen = np.sort(rng.choice(ends[-1], min(NUM_SAMPLES, ends[-1]), replace=False))
    tensors = np.searchsorted(ends, chosen, side='right')
    starts = ends - [w.size for w in weights]
    self._samples = [(int(t), int(c - starts[t])) for t, c in zip(tensors, chosen, strict=True)]

  def add(self, state: Any) -> None:
    """Adds the state of an APF process after a round."""
    weights = [np.asarray(w) for w in state.global_model_weights.trainable]
    masks = freezing.frozen_mask(self._settings, state.finalizer['freezing'])
    masks = [
      np.broadcast_to(np.asarray(m), w.shape).ravel() for m, w in zip(masks, weights, strict=True)
    ]
    if not self._first:
      self._start(weights)
    self._round += 1
    for first, mask in zip(self._first, masks, strict=True):
      first[mask & (first == NEVER)] = self._round
    self._values.append([float(weights[t].ravel()[i]) for t, i in self._samples])
    self._frozen.append([bool(masks[t][i]) for t, i in self._samples])

  def restore(self, saved: Mapping[str, np.ndarray]) -> None:
    """Restores the result of `save`."""
    places = zip(saved['sample_tensor'], saved['sample_index'], strict=True)
    self._samples = [(int(t), int(i)) for t, i in places]
    self._values = saved['sample_value'].tolist()
    self._frozen = saved['sample_frozen'].tolist()
    self._round = len(self._values)
    count = sum(name.startswith('shape_') for name in saved)
    self._shapes = [saved[f'shape_{i}'] for i in range(count)]
    self._first = [np.array(saved[f'first_frozen_{i}']) for i in range(count)]

  def write(self, path: pathlib.Path) -> None:
    """Writes the file described above."""
    content = io.BytesIO()
    np.savez_compressed(content, names=np.array(self._names), **self.save())
    file_operations.replace(path, content.getvalue())

  def save(self) -> dict[str, np.ndarray]:
    """The arrays of the file, without names; empty arrays if there are no rounds yet."""
    tensors, indices = np.array(self._samples, np.int64).reshape(-1, 2).T
    return dict(
      sample_tensor=tensors,
      sample_index=indices,
      sample_value=np.array(self._values, np.float32),
      sample_frozen=np.array(self._frozen, bool),
      **{f'shape_{i}': shape for i, shape in enumerate(self._shapes)},
      **{f'first_frozen_{i}': first for i, first in enumerate(self._first)},
    )
