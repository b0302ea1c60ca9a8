"""Whether look-back at several updates recycles where LBGM, which looks back at one, does not.

  python -m benchmarks.look_back_vectors --output_dir=benchmarks/results

A tenth of the clients in a round, on the embedded digits by Dirichlet(0.5): a dense network of 64
hidden units, trained here in NumPy for speed. The codec, its memory and its prices are the
package's. Two settings:
  passes  100 clients of 14 images or so, five passes over them in batches of 5
  steps   30 clients of 48 images or so, five steps on 4 of them drawn at random: noisier
Three forms:
  own         the last updates that a client sent in full
  predictive  the same, and what is not recycled is sent as the residual, by top-K
  global      the last changes of the global model
Written are a table, a row for each run, and a figure.
"""

from collections.abc import Iterator, Sequence
import csv
import itertools
import pathlib
from typing import Any, NamedTuple

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf

from tff_lowrank import codecs
from tff_lowrank import ledger
from tff_lowrank import structures
from tff_lowrank.datasets import digits
from tff_lowrank.datasets import partition

_OUTPUT_DIR = flags.DEFINE_string('output_dir', None, 'Where the table and the figure go.')
_SETTINGS = flags.DEFINE_list('settings', ['passes', 'steps'], 'Which settings to run.')
_ROUNDS = flags.DEFINE_integer('rounds', None, "Of each run, if not its setting's.", lower_bound=1)
_SEEDS = flags.DEFINE_list('seeds', ['1', '2', '3'], 'Of the runs.')
_THRESHOLDS = flags.DEFINE_list('thresholds', ['0.2', '0.4'], 'Of look-back.')
_VECTORS = flags.DEFINE_list('vectors', ['1', '2', '4', '8'], 'How many updates to look back at.')
_FORMS = flags.DEFINE_list('forms', ['own', 'global', 'predictive'], 'Which forms to run.')

NAME = 'look_back_vectors'
RATE, ALPHA, HIDDEN = 0.05, 0.5, 64

Weights = list[np.ndarray]


class Setting(NamedTuple):
  """How clients train: `passes` over their images, or if that is 0, `steps` on some at random."""

  clients: int
  rounds: int
  batch: int
  passes: int = 0
  steps: int = 0

  def batches(self, size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """The indices of each step's images, of `size`."""
    for _ in range(self.passes):
      order = rng.permutation(size)
      for start in range(0, size, self.batch):
        yield order[start : start + self.batch]
    for _ in range(self.steps):
      yield rng.choice(size, min(size, self.batch), replace=False)


SETTINGS = dict(
  passes=Setting(clients=100, rounds=120, batch=5, passes=5),
  steps=Setting(clients=30, rounds=200, batch=4, steps=5),
)


class Result(NamedTuple):
  """A row of the table; of FedAvg, `vectors` and `threshold` are 0.

  recycled: the share of blocks that were sent as coefficients.
  error: the mean look-back-phase error of blocks with something to look back at.
  client_bytes: what look-back has a client remember at most.
  """

  setting: str
  form: str
  vectors: int
  threshold: float
  seed: int
  rounds: int
  accuracy: float
  recycled: float
  error: float
  uplink_bytes: int
  downlink_bytes: int
  client_bytes: int


def first_weights(rng: np.random.Generator, inputs: int) -> Weights:
  """Uniform as Glorot and Bengio have it, and zeros."""
  shapes, weights = [(inputs, HIDDEN), (HIDDEN, 10)], []
  for shape in shapes:
    bound = np.sqrt(6 / sum(shape))
    weights += [rng.uniform(-bound, bound, shape), np.zeros(shape[1])]
  return [np.float32(w) for w in weights]


def logits(weights: Weights, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Of the hidden layer and of the output."""
  hidden = np.maximum(x @ weights[0] + weights[1], 0)
  return hidden, hidden @ weights[2] + weights[3]


def train(weights: Weights, x: np.ndarray, y: np.ndarray, batches: Any) -> Weights:
  """SGD on the mean cross entropy: the weights before less those after."""
  now = [w.copy() for w in weights]
  for batch in batches:
    hidden, outputs = logits(now, x[batch])
    p = np.exp(outputs - outputs.max(1, keepdims=True))
    error = (p / p.sum(1, keepdims=True) - np.eye(10, dtype=np.float32)[y[batch]]) / len(batch)
    back = (error @ now[2].T) * (hidden > 0)
    gradients = (x[batch].T @ back, back.sum(0), hidden.T @ error, error.sum(0))
    for w, gradient in zip(now, gradients, strict=True):
      w -= np.float32(RATE) * gradient
  return [before - after for before, after in zip(weights, now, strict=True)]


def build_send(codec: codecs.Codec) -> Any:
  """`(memory, update, seed) -> (memory, decoded, bits, (recycled, error, tested))`."""

  @tf.function(jit_compile=True)
  def send(memory, update, seed):
    encoded = codec.encode(memory, update, seed)
    recycled, blocks = encoded.measurements['scalar_fraction']
    error, tested = encoded.measurements['lbp_error']
    bits = ledger.total(codec.message_price(encoded.message))
    decoded = codec.decode(memory, encoded.message)
    return encoded.memory, decoded, bits, (recycled / blocks, error, tested)

  return send


class GlobalUpdates:
  """The memory that clients have of the last global updates, and what it costs them."""

  def __init__(self, codec: codecs.LookBack, weights: Weights):
    self._codec, self._models, self._seen = codec, [weights], {}
    self._zeros = [np.zeros_like(w) for w in weights]

  def push(self, weights: Weights) -> None:
    self._models.append(weights)

  def memory(self) -> Any:
    count = self._codec.vectors
    models = self._models[-count - 1 :]
    updates = [
      [a - b for a, b in zip(old, new, strict=True)] for old, new in itertools.pairwise(models)
    ]
    missing = count - len(updates)
    vectors = [self._zeros] * missing + updates
    exist = tf.constant([False] * missing + [True] * len(updates))
    as_tensors = tf.nest.map_structure(tf.constant, vectors)
    return self._codec.memory_with(as_tensors, exist, [()] * len(self._zeros))

  def models_missing(self, client: int) -> int:
    """How many earlier models it is sent; from then on it has them."""
    now = len(self._models) - 1
    away = now - self._seen.get(client, -1) - 1
    self._seen[client] = now
    return min(away, now, self._codec.vectors)


def run(name: str, form: str, codec: codecs.LookBack, send: Any, seed: int) -> Result:
  """One training in the setting `name`; threshold 0 is FedAvg."""
  setting = SETTINGS[name]
  rounds = _ROUNDS.value or setting.rounds
  data = digits.load_arrays()
  x, test = (np.float32(split.x).reshape(len(split.x), -1) / 16 for split in data)
  y = data.train.y
  parts = partition.dirichlet(y, setting.clients, seed, alpha=ALPHA)
  rng = np.random.default_rng(seed)
  weights = first_weights(rng, x.shape[1])
  model_bytes = sum(w.nbytes for w in weights)
  specs = structures.specs(weights)
  memories, shared = {}, GlobalUpdates(codec, weights)
  up = down = 0
  measured = []
  for number in range(rounds):
    chosen = rng.choice(setting.clients, setting.clients // 10, replace=False)
    total = sum(len(parts[c]) for c in chosen)
    mean = [np.zeros(w.shape) for w in weights]
    for client in map(int, chosen):
      part = parts[client]
      update = train(weights, x[part], y[part], setting.batches(len(part), rng))
      if form == 'global':
        memory = shared.memory()
        down += shared.models_missing(client) * model_bytes
      else:
        memory = memories.get(client) or codec.initial_memory(specs)
      memories[client], decoded, bits, values = send(memory, update, tf.constant([seed, number]))
      up += ledger.to_bytes(bits)
      down += model_bytes
      measured.append([float(value) for value in values])
      for m, tensor in zip(mean, decoded, strict=True):
        m += len(part) / total * tensor.numpy()
    weights = [np.float32(w - m) for w, m in zip(weights, mean, strict=True)]
    shared.push(weights)
  recycled, error, tested = np.sum(measured, 0)
  accuracy = float(np.mean(logits(weights, test)[1].argmax(1) == data.test.y))
  return Result(
    name,
    form if codec.threshold else 'fed_avg',
    codec.vectors if codec.threshold else 0,
    codec.threshold,
    seed,
    rounds,
    round(accuracy, 4),
    round(recycled / len(measured), 4),
    round(error / max(tested, 1), 4),
    up,
    down,
    codec.vectors * model_bytes if codec.threshold else 0,
  )


def results() -> Iterator[Result]:
  """All runs; settings and seeds share what is compiled."""
  runs = [(name, int(seed)) for name in _SETTINGS.value for seed in _SEEDS.value]
  plain = codecs.LookBack(threshold=0.0)
  send = build_send(plain)
  for name, seed in runs:
    yield run(name, 'own', plain, send, seed)
  for threshold in map(float, _THRESHOLDS.value):
    for vectors in map(int, _VECTORS.value):
      same = codecs.LookBack(threshold=threshold, vectors=vectors)
      residual = codecs.LookBack(codecs.TopK(0.1), threshold, vectors=vectors, predictive=True)
      sends = {codec: build_send(codec) for codec in (same, residual)}
      for form in _FORMS.value:
        codec = residual if form == 'predictive' else same
        for name, seed in runs:
          yield run(name, form, codec, sends[codec], seed)


def draw(rows: Sequence[Result], path: pathlib.Path) -> None:
  """Recycled blocks, uplink and accuracy by the number of vectors; means over seeds."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot as plt

  names = [name for name in SETTINGS if any(row.setting == name for row in rows)]
  size = (11, 3 * len(names))
  figure, grid = plt.subplots(len(names), 3, figsize=size, layout='constrained', squeeze=False)
  for name, axes in zip(names, grid, strict=True):
    here = [row for row in rows if row.setting == name]
    plain = [row for row in here if row.form == 'fed_avg']
    base = np.mean([row.uplink_bytes for row in plain])
    panels = {
      f'{name}: share of blocks recycled': lambda row: row.recycled,
      "uplink, share of FedAvg's": lambda row, base=base: row.uplink_bytes / base,
      'test accuracy': lambda row: row.accuracy,
    }
    for axis, (title, value) in zip(axes, panels.items(), strict=True):
      for form, threshold in sorted({(r.form, r.threshold) for r in here if r.vectors}):
        line = [r for r in here if (r.form, r.threshold) == (form, threshold)]
        counts = sorted({r.vectors for r in line})
        means = [np.mean([value(r) for r in line if r.vectors == count]) for count in counts]
        color = f'C{("own", "global", "predictive").index(form)}'
        line_style = '-' if threshold <= 0.2 else '--'
        label = f'{form}, threshold {threshold:g}'
        axis.plot(counts, means, line_style, marker='o', color=color, label=label)
      axis.set(title=title, xlabel='vectors', xscale='log')
      axis.set_xticks([1, 2, 4, 8], ['1', '2', '4', '8'])
      axis.minorticks_off()
    axes[2].axhline(np.mean([r.accuracy for r in plain]), color='k', ls=':', label='FedAvg')
    axes[2].legend(fontsize=7)
  figure.savefig(path, dpi=90)


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  rows = []
  folder = pathlib.Path(_OUTPUT_DIR.value)
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / f'{NAME}.csv', 'w', newline='') as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(Result._fields)
    for row in results():
      rows.append(row)
      writer.writerow(row)
      file.flush()
      print(*row, flush=True)
  draw(rows, folder / f'{NAME}.png')


if __name__ == '__main__':
  flags.mark_flag_as_required('output_dir')
  app.run(main)
