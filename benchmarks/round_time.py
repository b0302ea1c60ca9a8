"""Measures seconds per round of federated averaging: TFF's stock context, the local one, a floor.

  python -m benchmarks.round_time --workloads=A,B,C,D --rounds=10 --json=DIR/times.jsonl

Each context has its own process, and they take turns, one round each, so that all run under the
same load. The floor is the same training as one hand-written program without TFF: the fastest of
TensorFlow, TensorFlow's XLA and jax. Workloads:

  A  the EMNIST CNN: 5x5 convolutions of 32 and 64 channels with pooling, dense 512 and 62;
     10 clients with 100 examples each, in batches of 20
  B  an MLP 784-200-10; 50 clients with 60 examples each, in batches of 10
  C  as B with 500 clients
  D  next-word prediction with TFF's own recurrent model (masked LSTM of 64 units, embedding of
     32, 504 words, a `tff.learning.models.from_keras_model`); 10 clients with 100 sentences of
     20 words each, in batches of 10
"""

from collections.abc import Callable, Sequence
import json
import multiprocessing
import pathlib
import statistics
import time
from typing import Any

from absl import app
from absl import flags
import psutil

from benchmarks import workloads

_WORKLOADS = flags.DEFINE_list('workloads', 'A,B,C,D', 'Workloads to run.')
_ROUNDS = flags.DEFINE_integer('rounds', 10, 'Timed rounds per context.', lower_bound=1)
_JSON = flags.DEFINE_string('json', None, 'File to append one line per workload and context to.')
_COMPILE = flags.DEFINE_string('compile', 'auto', 'The local context: auto, tensorflow or xla.')


def _tensorflow_floor(workload: str, jit_compile: bool) -> Callable[[], None]:
  """All clients one after the other in one `tf.function`."""
  import numpy as np
  import tensorflow as tf

  model = workloads.keras_model(workload)
  loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  _, examples, batch_size = workloads.settings(workload)
  steps = examples // batch_size
  data = workloads.arrays(workload)
  x, y = (
    tf.constant(np.stack([a.reshape(steps, batch_size, *a.shape[1:]) for a in component]))
    for component in zip(*data, strict=True)
  )
  initial = [tf.constant(v) for v in model.get_weights()]
  variables = model.trainable_variables

  @tf.function(jit_compile=jit_compile)
  def train(weights, x, y):
    total = [tf.zeros_like(w) for w in weights]
    for k in tf.range(tf.shape(x)[0]):
      for variable, weight in zip(variables, weights, strict=True):
        variable.assign(weight)
      for i in tf.range(steps):
        with tf.GradientTape() as tape:
          loss = loss_fn(y[k, i], model(x[k, i], training=True))
        for variable, gradient in zip(variables, tape.gradient(loss, variables), strict=True):
          variable.assign_sub(workloads.RATE * tf.convert_to_tensor(gradient))
      total = [t + (w - v) for t, w, v in zip(total, weights, variables, strict=True)]
    return [w - t / float(len(data)) for w, t in zip(weights, total, strict=True)]

  def run_round() -> None:
    nonlocal initial
    initial = train(initial, x, y)
    initial[0].numpy()

  return run_round


def _jax_floor(workload: str) -> Callable[[], None]:
  """All clients one after the other in one jitted function."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  if workload not in 'BC':
    raise NotImplementedError('Written for the MLP.')
  _, examples, batch_size = workloads.settings(workload)
  steps = examples // batch_size
  data = workloads.arrays(workload)
  x, y = (
    jnp.asarray(np.stack([a.reshape(steps, batch_size, *a.shape[1:]) for a in component]))
    for component in zip(*data, strict=True)
  )
  rng = np.random.default_rng(1)
  weights = [
    jnp.asarray(0.05 * rng.standard_normal(shape), jnp.float32)
    for shape in ((784, 200), (200,), (200, 10), (10,))
  ]

  def loss(w, x, y):
    logits = jax.nn.relu(x @ w[0] + w[1]) @ w[2] + w[3]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))

  @jax.jit
  def train(weights, x, y):
    def client(k, total):
      def step(i, w):
        gradients = jax.grad(loss)(w, x[k, i], y[k, i])
        return [a - workloads.RATE * g for a, g in zip(w, gradients, strict=True)]

      trained = jax.lax.fori_loop(0, steps, step, weights)
      return [t + (a - b) for t, a, b in zip(total, weights, trained, strict=True)]

    zeros = [jnp.zeros_like(w) for w in weights]
    total = jax.lax.fori_loop(0, len(data), client, zeros)
    return [w - t / len(data) for w, t in zip(weights, total, strict=True)]

  def run_round() -> None:
    nonlocal weights
    weights = jax.block_until_ready(train(weights, x, y))

  return run_round


def _build(context: str, workload: str, compile_mode: str) -> Callable[[], None]:
  if context == 'local':
    from tff_lowrank import execution

    execution.set_local_context(compile=compile_mode)
    return workloads.tff_round(workload)
  if context == 'stock':
    return workloads.tff_round(workload)
  builders = {
    'floor-tensorflow': lambda: _tensorflow_floor(workload, False),
    'floor-tensorflow-xla': lambda: _tensorflow_floor(workload, True),
    'floor-jax': lambda: _jax_floor(workload),
  }
  return builders[context]()


def _serve(context: str, workload: str, compile_mode: str, pipe: Any) -> None:
  """Runs a round for each request, and sends its seconds; -1 if it cannot be built."""
  try:
    run_round = _build(context, workload, compile_mode)
    for _ in range(workloads.WARM_UP):
      run_round()
  except Exception as e:
    pipe.send((-1.0, f'{type(e).__name__}: {str(e)[:200]}'))
    return
  pipe.send((0.0, ''))
  while pipe.recv():
    start = time.perf_counter()
    run_round()
    pipe.send((time.perf_counter() - start, ''))


class _Contender:
  """A context in its own process."""

  def __init__(self, context: str, workload: str, compile_mode: str):
    self.context = context
    self.seconds: list[float] = []
    self._pipe, theirs = multiprocessing.Pipe()
    self._process = multiprocessing.Process(
      target=_serve, args=(context, workload, compile_mode, theirs)
    )
    self._process.start()
    theirs.close()
    try:
      ready, self.failure = self._pipe.recv()
    except EOFError:
      ready, self.failure = -1.0, 'the process died'
    self.is_ready = ready >= 0

  def run_round(self) -> None:
    self._pipe.send(True)
    self.seconds.append(self._pipe.recv()[0])

  def peak_mb(self) -> float:
    """The peak resident memory of the process and its child processes, in 10^6 bytes."""
    kilobytes = 0
    family = psutil.Process(self._process.pid)
    for process in [family, *family.children(recursive=True)]:
      status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
      kilobytes += int(status.split('VmHWM:')[1].split()[0])
    return kilobytes * 1024 / 1e6

  def close(self) -> None:
    """Ends the process and its child processes."""
    if self._process.is_alive():
      for process in psutil.Process(self._process.pid).children(recursive=True):
        process.kill()
    self._process.kill()
    self._process.join()


def _measure(workload: str, rounds: int, compile_mode: str) -> list[dict[str, Any]]:
  contexts = ('stock', 'local', 'floor-tensorflow', 'floor-tensorflow-xla', 'floor-jax')
  contenders = []
  try:
    for context in contexts:
      contender = _Contender(context, workload, compile_mode)
      contenders.append(contender)
      if not contender.is_ready:
        print(f'{workload} {context}: not run, {contender.failure}', flush=True)
    ready = [c for c in contenders if c.is_ready]
    for _ in range(rounds):
      for contender in ready:
        contender.run_round()
    results = [
      dict(
        workload=workload,
        context=contender.context,
        median_seconds=statistics.median(contender.seconds),
        min_seconds=min(contender.seconds),
        max_seconds=max(contender.seconds),
        rounds=rounds,
        peak_mb=round(contender.peak_mb(), 1),
      )
      for contender in ready
    ]
  finally:
    for contender in contenders:
      contender.close()
  floors = [r for r in results if r['context'].startswith('floor')]
  best = min(floors, key=lambda r: r['median_seconds'])
  return [r for r in results if r not in floors] + [
    {**best, 'program': best['context'][6:], 'context': 'floor'}
  ]


def main(argv: Sequence[str]) -> None:
  del argv
  multiprocessing.set_start_method('spawn')
  lines = []
  print('workload  context   median s     min s     max s   peak MB   stock/this  this/floor')
  for workload in _WORKLOADS.value:
    results = _measure(workload, _ROUNDS.value, _COMPILE.value)
    medians = {r['context']: r['median_seconds'] for r in results}
    for r in results:
      print(
        f'{workload:8}  {r["context"]:8} {r["median_seconds"]:9.4f} {r["min_seconds"]:9.4f} '
        f'{r["max_seconds"]:9.4f} {r["peak_mb"]:9.1f} '
        f'{medians.get("stock", float("nan")) / r["median_seconds"]:11.2f} '
        f'{r["median_seconds"] / medians["floor"]:11.2f}   {r.get("program", "")}',
        flush=True,
      )
    lines += results
  if _JSON.value:
    with open(_JSON.value, 'a') as file:
      for line in lines:
        file.write(json.dumps(line) + '\n')


if __name__ == '__main__':
  app.run(main)
