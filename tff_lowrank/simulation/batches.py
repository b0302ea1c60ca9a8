"""A client's batches in a round."""

import collections
from collections.abc import Callable
import dataclasses
from typing import Any
import zlib

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import client_work
from tff_lowrank.datasets import arrays
from tff_lowrank.models import keyed

_SALT = 0xD60F


@dataclasses.dataclass(frozen=True)
class ClientBatches:
  """How a client's data are shuffled and batched in a round.

  epochs: passes over the data, each in a different order.
  batch_size: examples per batch, the last one may be smaller; 0: all local data in one batch.
  seed: seeds, together with round and client, the order, and with the step also the key.
  max_elements: maximum number of examples of a client in a round, over all passes; 0: all.
  dropout_keys: whether each batch has a key for the masks of dropout, see `models.keyed`; for
    models whose `input_spec` has one.
  learning_rate: a function from a client's id to its learning rate, which is added to each batch
    for `client_work.ClientRates`; None if clients do not have their own rates.
  """

  epochs: int
  batch_size: int
  seed: int
  max_elements: int = 0
  dropout_keys: bool = False
  learning_rate: Callable[[str], float] | None = None

  def __post_init__(self) -> None:
    checks.check_at_least('epochs', self.epochs, 1)
    checks.check_at_least('batch_size', self.batch_size, 0)
    checks.check_at_least('max_elements', self.max_elements, 0)

  def num_steps(self, num_examples: int) -> int:
    """The number of batches of a client with this many examples."""
    trained_on = num_examples * self.epochs
    if self.max_elements:
      trained_on = min(trained_on, self.max_elements)
    return -(-trained_on // (self.batch_size or max(num_examples, 1)))

  def dataset(
    self,
    train: arrays.ExampleClientData,
    client_id: str,
    round_num: int,
    preprocess: Callable[[Any], Any],
  ) -> tf.data.Dataset:
    """The preprocessed batches of one client in one round.

    Batches may span two passes: only the very last batch may be smaller.

    Raises TypeError or ValueError if the client's learning rate is not a number of at least 0.
    """
    examples = train.examples(client_id)
    num_examples = len(examples.y)
    order = np.arange(num_examples)
    if self.batch_size == self.max_elements == 0:
      order = np.tile(order, self.epochs)
    else:
      rng = np.random.default_rng([self.seed, round_num, zlib.crc32(client_id.encode())])
      order = np.concatenate([rng.permutation(order) for _ in range(self.epochs)])
    if self.max_elements:
      order = order[: self.max_elements]
    # Preprocessed all at once: a `map` would trace a function for each client in each round.
    prepared = preprocess(collections.OrderedDict(x=examples.x[order], y=examples.y[order]))
    batch_size = self.batch_size or max(num_examples, 1)
    num_steps = -(-len(order) // batch_size)
    slices = tf.data.Dataset.from_tensor_slices
    if self.dropout_keys:
      x, y = (slices(prepared[name]).batch(batch_size) for name in ('x', 'y'))
      keys = slices(self._keys(client_id, round_num, num_steps))
      batches = tf.data.Dataset.zip(keyed.batch_with(x, keys, y))
    else:
      batches = slices(prepared).batch(batch_size)
    if self.learning_rate is None:
      return batches
    rate = self._checked_rate(client_id, self.learning_rate(client_id))
    rates = np.full(num_steps, rate, np.float32)
    return tf.data.Dataset.zip(client_work.with_rate(batches, slices(rates)))

  def _checked_rate(self, client_id: str, rate: Any) -> float:
    rate = rate.item() if isinstance(rate, np.generic) else rate
    checks.check_in_range(f'learning_rate({client_id!r})', rate, 0, float(np.finfo(np.float32).max))
    return float(rate)

  def _keys(self, client_id: str, round_num: int, num_steps: int) -> np.ndarray:
    """int64 [num_steps], a random key for each of the client's steps in a round."""
    entropy = [self.seed, round_num, zlib.crc32(client_id.encode()), _SALT]
    return np.random.SeedSequence(entropy).generate_state(num_steps, np.uint64).view(np.int64)
