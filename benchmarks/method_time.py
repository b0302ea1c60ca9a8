"""Time of a round of each method, relative to FedAvg.

  python -m benchmarks.method_time [--methods='look_back; top_k(0.1); apf'] [--rounds=7]

The CNN of LBGM's paper on 10 clients with 600 random images each, in batches of 20. Rounds of all
processes alternate. Prints medians of wall and CPU time, and the median ratio of each round to the
FedAvg round next to it. FedAvg runs twice: the second time, as `identity`, shows the noise.
"""

from collections.abc import Sequence
import statistics
import time

from absl import app
from absl import flags
import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import codecs
from tff_lowrank import execution
from tff_lowrank import learning
from tff_lowrank import models

_METHODS = flags.DEFINE_string(
  'methods',
  'identity; look_back; top_k(0.1); error_feedback(top_k(0.1)); sign_sgd; qsgd; float16; drive; '
  'random_k(0.1); truncated_svd(2); power_sgd(2); look_back(error_feedback(top_k(0.1))); apf',
  "Methods to time, separated by semicolons: `apf`, or the codec of FedAvg's uplink.",
)
_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Timed rounds per method.', lower_bound=1)
_CLIENTS = flags.DEFINE_integer('clients', 10, 'Clients per round.', lower_bound=1)

EXAMPLES, BATCH = 600, 20


class Training:
  """A process with its state, run round by round."""

  def __init__(self, model: tff.learning.models.FunctionalModel, method: str):
    sgd = tff.learning.optimizers.build_sgdm(0.05)
    if method == 'apf':
      self._process = learning.build_apf_fed_avg(model, sgd)
    else:
      codec = codecs.parse(method)
      self._process = learning.build_compressed_fed_avg(model, sgd, codec=codec)
    self._state = self._process.initialize()
    self._memory = [self._process.initialize_client() for _ in range(_CLIENTS.value)]

  def seconds(self, data: list[tf.data.Dataset]) -> tuple[float, float]:
    """Runs a round and returns its time, and its CPU time."""
    start, cpu_start = time.perf_counter(), time.process_time()
    output = self._process.next(self._state, self._memory, data)
    spent = time.perf_counter() - start, time.process_time() - cpu_start
    self._state, self._memory = output.state, output.client_states
    return spent


def _build_model() -> tff.learning.models.FunctionalModel:
  return tff.learning.models.functional_model_from_keras(
    models.build_cnn(),
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    dict(x=tf.TensorSpec([None, 28, 28, 1]), y=tf.TensorSpec([None], tf.int32)),
  )


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  methods = ['identity', *(text.strip() for text in _METHODS.value.split(';'))]
  rng = np.random.default_rng(0)
  with execution.set_local_context():
    model = _build_model()
    trainings = [Training(model, method) for method in methods]
    times = [[] for _ in methods]
    for number in range(-2, _ROUNDS.value):
      x = rng.normal(size=(_CLIENTS.value, EXAMPLES, 28, 28, 1)).astype(np.float32)
      y = rng.integers(0, 10, (_CLIENTS.value, EXAMPLES)).astype(np.int32)
      data = [
        tf.data.Dataset.from_tensor_slices(dict(x=a, y=b)).batch(BATCH)
        for a, b in zip(x, y, strict=True)
      ]
      for training, spent in zip(trainings, times, strict=True):
        seconds = training.seconds(data)
        # The first rounds trace and compile, and look-back sends everything in full.
        if number >= 0:
          spent.append(seconds)
  print('| method | seconds per round | relative to FedAvg | CPU seconds | relative to FedAvg |')
  print('|---|---:|---:|---:|---:|')
  for method, spent in list(zip(methods, times, strict=True))[1:]:
    cells = [f'`{method}`']
    for of_method, of_fed_avg in zip(
      zip(*spent, strict=True), zip(*times[0], strict=True), strict=True
    ):
      ratios = [a / b for a, b in zip(of_method, of_fed_avg, strict=True)]
      cells += [f'{statistics.median(of_method):.3f}', f'{statistics.median(ratios):.3f}']
    print(f'| {" | ".join(cells)} |')


if __name__ == '__main__':
  app.run(main)
