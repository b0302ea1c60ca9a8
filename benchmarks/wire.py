"""Compares the size of a client update for every codec, by the ledger and by the papers' counts.

  python -m benchmarks.wire [--task=digits] [--data_dir=DIR] [--codecs='top_k(0.1);sign_sgd']

A client trains twice in a row. The second update is measured, after the first one was sent, so
that codecs with memory have some. Prints a table:
  ledger    bytes in the ledger; the next column has the bytes of indices, flags and scalars in it
  packed    bytes of the packed message
  zstd      bytes after zstandard at level 19: what an entropy coder would still save
  official  the size as the method's paper counts it, in its unit
"""

from collections.abc import Sequence
import itertools

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff
import zstandard

from tff_lowrank import codecs
from tff_lowrank import execution
from tff_lowrank import learning
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank import tasks
from tff_lowrank.models import keyed
from tff_lowrank.simulation import batches as batches_lib

_TASK = flags.DEFINE_enum('task', 'digits', tasks.NAMES, 'Task with the model and data.')
_DATA_DIR = flags.DEFINE_string('data_dir', None, "Folder with the data set's files.")
_CODECS = flags.DEFINE_string(
  'codecs',
  'identity; float16; qsgd(127, max); terngrad; sign_sgd; drive; top_k(0.1); '
  'top_k(0.1, qsgd(7)); random_k(0.1); truncated_svd(2); power_sgd(2); gaia(0.01); '
  'look_back(identity, 0.5); look_back(top_k(0.1), 0.9)',
  'Codecs to compare, separated by semicolons; see codecs.parse.',
)
_SEED = flags.DEFINE_integer('seed', 1, 'Seeds data and initial weights.')

BITS = ('sign_sgd', 'drive')


def two_updates(task: tasks.Task, seed: int) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
  """(weights before the second update, two successive updates) of the first client."""
  model = task.build_model(seed)
  sgd = tff.learning.optimizers.build_sgdm(0.05)
  process = learning.build_fed_avg(model, sgd)
  cut = batches_lib.ClientBatches(1, 20, seed, dropout_keys=keyed.is_keyed(model))
  client = task.train.client_ids[0]
  state = process.initialize()
  weights = [process.get_model_weights(state).trainable]
  for number in (1, 2):
    data = cut.dataset(task.train, client, number, task.preprocess)
    state = process.next(state, [process.initialize_client()], [data]).state
    weights.append(process.get_model_weights(state).trainable)
  pairs = [zip(x, y, strict=True) for x, y in itertools.pairwise(weights)]
  updates = [[a - b for a, b in pair] for pair in pairs]
  return weights[1], updates


def price_row(text: str, weights: list[np.ndarray], updates: list) -> str:
  """The table's row for the codec that `text` describes."""
  codec = codecs.parse(text)
  memory = codec.initial_memory(structures.specs(updates[0]))
  for number, update in enumerate(updates):
    reference = codecs.Reference(model=weights, last_update=updates[0])
    message = codec.encode(memory, update, tf.constant([0, number]), reference)
    memory, message = message.memory, message.message
  price = {kind: int(bits) for kind, bits in codec.message_price(message).items()}
  packed = codec.pack(message)
  besides = ledger.to_bytes(ledger.total(price) - price['payload'])
  unit = 'bits' if codec.parts[-1].name in BITS else 'floats'
  squeezed = len(zstandard.ZstdCompressor(level=19).compress(packed))
  return (
    f'| `{text}` | {ledger.to_bytes(ledger.total(price)):,} | {besides:,} | {len(packed):,} '
    f'| {squeezed:,} | {int(codec.official_units(message)):,} {unit} |'
  )


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  texts = [text.strip() for text in _CODECS.value.split(';')]
  with execution.set_local_context():
    task = tasks.build(
      _TASK.value, partition='iid', num_clients=100, seed=_SEED.value, data_dir=_DATA_DIR.value
    )
    weights, updates = two_updates(task, _SEED.value)
  print('| codec | ledger | without payload | packed | zstd | official |')
  print('|---|---:|---:|---:|---:|---:|')
  for text in texts:
    print(price_row(text, weights, updates))


if __name__ == '__main__':
  app.run(main)
