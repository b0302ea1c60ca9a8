"""A client's batches in a round."""

from collections.abc import Callable
import dataclasses
from typing import Any
import zlib

import numpy as np
import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.datasets import arrays


@dataclasses.dataclass(frozen=True)
class ClientBatches:
  """How a client goes through its data in a round.

  epochs: passes over the data, each in an order of its own.
  batch_size: examples a batch, the last one smaller; 0 is the whole local data as one batch.
  seed: decides, with the round and the client, the order.
  """

  epochs: int
  batch_size: int
  seed: int

  def __post_init__(self):
    checks.check_at_least('epochs', self.epochs, 1)
    checks.check_at_least('batch_size', self.batch_size, 0)

  def dataset(
    self,
    train: arrays.ArrayClientData,
    client_id: str,
    round_num: int,
    preprocess: Callable[[Any], Any],
  ) -> tf.data.Dataset:
    """The preprocessed batches of one client in one round."""
    num_examples = train.num_examples(client_id)
    dataset = train.create_tf_dataset_for_client(client_id)
    if self.batch_size != 0:
      entropy = [self.seed, round_num, zlib.crc32(client_id.encode())]
      order_seed = int(np.random.SeedSequence(entropy).generate_state(1, np.uint32)[0])
      dataset = dataset.shuffle(num_examples, seed=order_seed, reshuffle_each_iteration=True)
    batch_size = self.batch_size or num_examples
    # Batching before repeating keeps epochs apart.
    return dataset.batch(batch_size).repeat(self.epochs).map(preprocess)
