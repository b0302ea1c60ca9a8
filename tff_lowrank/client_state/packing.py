"""Converts client state to bytes: a checksum and the raw numbers of its tensors."""

import json
from typing import Any

import numpy as np
import tensorflow as tf

from tff_lowrank.client_state import lmdb_check

_FLOAT16_MAX = float(np.finfo(np.float16).max)


def leaves_of(state: Any) -> list[np.ndarray]:
  """The tensors of a nested structure as arrays; raises TypeError for leaves without numbers."""
  leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(state)]
  for leaf in leaves:
    if leaf.dtype.hasobject or leaf.dtype.kind in 'SU':
      raise TypeError(f'Expected numbers, found {leaf!r} of type {leaf.dtype}.')
  return leaves


class Packing:
  """Converts structures like `example` to bytes and back.

  `unpack` is the inverse of `pack`. With `float16`, float32 and float64 numbers are rounded to
  float16 (a relative error of at most 2^-11 for magnitudes of 6.1e-5 to 65504; larger ones become
  65504).
  """

  def __init__(self, example: Any, float16: bool = False):
    """Creates the packing; raises TypeError if `example` has a leaf without numbers."""
    leaves = leaves_of(example)
    self._example = example
    self._shapes = [leaf.shape for leaf in leaves]
    self._dtypes = [leaf.dtype for leaf in leaves]
    narrowed = (np.dtype(np.float32), np.dtype(np.float64)) if float16 else ()
    self._stored = [np.dtype(np.float16) if d in narrowed else d for d in self._dtypes]

  def signature(self) -> str:
    """A description of the format of the bytes, as JSON."""
    return json.dumps(
      [
        [dtype.name, list(shape), stored.name]
        for dtype, shape, stored in zip(self._dtypes, self._shapes, self._stored, strict=True)
      ]
    )

  @property
  def num_bytes(self) -> int:
    """The length of the result of `pack`."""
    sizes = (
      stored.itemsize * int(np.prod(shape, dtype=np.int64))
      for stored, shape in zip(self._stored, self._shapes, strict=True)
    )
    return lmdb_check.CHECKSUM.size + sum(sizes)

  def pack(self, state: Any, label: bytes) -> bytes:
    """The bytes of `state`, with a checksum over `label` (which client it is) and the numbers.

    Raises ValueError unless it has the shapes and dtypes of the example.
    """
    tf.nest.assert_same_structure(self._example, state, check_types=False)
    parts = []
    for i, leaf in enumerate(leaves_of(state)):
      if leaf.shape != self._shapes[i] or leaf.dtype != self._dtypes[i]:
        raise ValueError(
          f'Tensor {i} of a client state must be {self._dtypes[i]} {list(self._shapes[i])}, '
          f'found {leaf.dtype} {list(leaf.shape)}.'
        )
      if self._stored[i] != leaf.dtype:
        leaf = np.clip(leaf, -_FLOAT16_MAX, _FLOAT16_MAX).astype(self._stored[i])
      parts.append(leaf.tobytes())
    body = b''.join(parts)
    return lmdb_check.checksum(label, body) + body

  def unpack(self, data: bytes, label: bytes) -> Any:
    """The inverse of `pack`; raises ValueError if `data` or `label` is damaged."""
    found, body = data[: lmdb_check.CHECKSUM.size], memoryview(data)[lmdb_check.CHECKSUM.size :]
    if len(data) != self.num_bytes or found != lmdb_check.checksum(label, body):
      raise ValueError(
        f'expected {self.num_bytes} bytes with the right checksum, found other content'
      )
    leaves, start = [], 0
    for dtype, stored, shape in zip(self._dtypes, self._stored, self._shapes, strict=True):
      count = int(np.prod(shape, dtype=np.int64))
      leaf = np.frombuffer(body, stored, count, start).reshape(shape)
      leaves.append(leaf.astype(dtype, copy=False))
      start += count * stored.itemsize
    return tf.nest.pack_sequence_as(self._example, leaves)
