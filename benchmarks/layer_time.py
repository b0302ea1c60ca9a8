"""Measures time and memory of training steps of factorised layers, relative to plain layers.

  python -m benchmarks.layer_time --gamma=0.1 --only=dense,conv

Each case is a stack of equal layers. For a training step (outputs and all gradients), prints the
median seconds of the plain stack, and relative to it those of FedPara (with kernels recomputed in
the backward pass or not), of pFedPara, and of the low-rank stack of equal size. `composed` is the
forward pass of FedPara's stack after `layers.compose`, relative to the plain one. Memory is what
XLA allocates for the whole compiled step, in MiB: `kept` with all composed kernels kept for the
backward pass, `recomputed` otherwise. Stacks take turns, so that other work on the machine slows
all of them equally.
"""

import functools
import os
import pathlib
import re
import statistics
import tempfile
import time

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf

from tff_lowrank import layers

_GAMMA = flags.DEFINE_float('gamma', 0.1, "FedPara's hyper-parameter.", 0.0, 1.0)
flags.register_validator('gamma', lambda gamma: 0 <= gamma <= 1, 'must be in [0, 1]')  # Nor `nan`.
_ONLY = flags.DEFINE_list('only', [], 'Substrings of the names of the cases to run; all if empty.')
_REPEATS = flags.DEFINE_integer('repeats', 15, 'Timed steps per stack.', lower_bound=1)

# Name -> the layer, its arguments, the shape of a batch, the number of layers.
CASES = {
  'dense 512': ('Dense', dict(units=512, activation='relu'), (64, 512), 4),
  'conv 64, 32x32': (
    'Conv2D',
    dict(filters=64, kernel_size=3, padding='same', activation='relu'),
    (16, 32, 32, 64),
    4,
  ),
  'conv 512, 4x4': (
    'Conv2D',
    dict(filters=512, kernel_size=3, padding='same', activation='relu'),
    (64, 4, 4, 512),
    4,
  ),
  'lstm 256, 80 steps': ('LSTM', dict(units=256, return_sequences=True), (16, 80, 256), 2),
  'gru 256, 80 steps': ('GRU', dict(units=256, return_sequences=True), (16, 80, 256), 2),
  'embedding 10000 x 96': ('Embedding', dict(input_dim=10_000, output_dim=96), (16, 20), 1),
}
VARIANTS = {
  'plain': (tf.keras.layers, '', {}),
  'fedpara': (layers, 'FedPara', {}),
  'recomputed': (layers, 'FedPara', dict(recompute=True)),
  'pfedpara': (layers, 'FedPara', dict(personal=True)),
  'low_rank': (layers, 'LowRank', {}),
}


def build(case: str, variant: str) -> tf.keras.Sequential:
  """The stack of layers of a case, in a variant."""
  kind, arguments, shape, depth = CASES[case]
  module, prefix, options = VARIANTS[variant]
  if prefix:
    options = dict(options, gamma=_GAMMA.value)
  dtype = tf.int32 if kind == 'Embedding' else None
  stack = [getattr(module, prefix + kind)(**arguments, **options) for _ in range(depth)]
  return tf.keras.Sequential([tf.keras.layers.InputLayer(shape[1:], dtype=dtype), *stack])


def train_step(model: tf.keras.Sequential, x: tf.Tensor) -> list[tf.Tensor]:
  """All gradients of the outputs' mean square."""
  with tf.GradientTape() as tape:
    loss = tf.reduce_mean(model(x, training=True) ** 2)
  return [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]


def seconds_in_turns(functions: dict, x: tf.Tensor) -> dict[str, float]:
  """The median seconds of each of `functions`, called in turns after two calls to warm up."""
  taken = {name: [] for name in functions}
  for repeat in range(_REPEATS.value + 2):
    for name, function in functions.items():
      start = time.perf_counter()
      tf.nest.map_structure(lambda t: t.numpy(), function(x))
      if repeat >= 2:
        taken[name].append(time.perf_counter() - start)
  return {name: statistics.median(values) for name, values in taken.items()}


def megabytes(model: tf.keras.Sequential, x: tf.Tensor, dump: pathlib.Path) -> float:
  """The memory that XLA allocates for one training step, in MiB, from its report in `dump`."""
  before = set(dump.glob('*buffer-assignment.txt'))
  tf.function(functools.partial(train_step, model), jit_compile=True)(x)
  reports = [path.read_text() for path in set(dump.glob('*buffer-assignment.txt')) - before]
  return max(int(re.search(r'Total bytes used: (\d+)', r)[1]) for r in reports) / 2**20


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError('No arguments but flags are taken.')
  dump = pathlib.Path(tempfile.mkdtemp(prefix='layer_time'))
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_dump_to={dump}'
  ratios = [name for name in VARIANTS if name != 'plain']
  print('| case | plain, s | ' + ' | '.join(ratios) + ' | composed | MiB kept | recomputed |')
  print('| --- ' * (len(ratios) + 5) + '|')
  for case, (kind, _, shape, _) in CASES.items():
    if _ONLY.value and not any(part in case for part in _ONLY.value):
      continue
    rng = np.random.default_rng(0)
    values = rng.integers(0, 10_000, shape) if kind == 'Embedding' else rng.normal(size=shape)
    x = tf.constant(values, tf.int32 if kind == 'Embedding' else tf.float32)
    models = {name: build(case, name) for name in VARIANTS}
    steps = {name: tf.function(functools.partial(train_step, m)) for name, m in models.items()}
    times = seconds_in_turns(steps, x)
    serving = {
      'plain': tf.function(models['plain']),
      'composed': tf.function(layers.compose(models['fedpara'])),
    }
    forward = seconds_in_turns(serving, x)
    cells = [f'{times["plain"]:.4f}', *(f'{times[n] / times["plain"]:.2f}' for n in ratios)]
    cells.append(f'{forward["composed"] / forward["plain"]:.2f}')
    cells += [f'{megabytes(models[n], x, dump):.1f}' for n in ('fedpara', 'recomputed')]
    print(f'| {case} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
  app.run(main)
