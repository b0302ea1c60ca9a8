"""How time and memory grow with clients, population, numbers of the model, and tensors.

  python -m benchmarks.growth [--axes=clients,population,numbers,tensors] [--output_dir=DIR]

Each point runs in a process of its own: imports, building, the first round (tracing and compiling),
then some timed rounds. `--output_dir` gets `growth.csv` and `growth.png`.

  clients     10 to 10,000 clients a round of the MLP 784-32-10, two steps of 10 examples each
  population  10^3 to 10^5 clients with client memory on disk, 7,850 numbers each, 50 a round
  numbers     models of 10^4 to 5 x 10^7 numbers in one matrix; 2 clients of two steps
  tensors     10 to 1,000 tensors of 100 numbers; 10 clients of two steps

The slope beside a line is that of its last part in the logarithms: 1 is linear growth.
"""

from collections.abc import Callable, Sequence
import csv
import dataclasses
import math
import pathlib
import statistics
import tempfile
import time
from typing import Any

from absl import app
from absl import flags

from benchmarks import contender

METHODS = dict(fed_avg='identity', lbgm='look_back', top_k='top_k(0.1)')
AXES = dict(
  clients=((10, 100, 1000, 10_000), ('fed_avg', 'lbgm')),
  population=((1000, 10_000, 100_000), ('lbgm',)),
  numbers=((10_000, 100_000, 1_000_000, 10_000_000, 50_000_000), ('fed_avg', 'lbgm')),
  tensors=((10, 30, 100, 300, 1000), ('fed_avg', 'lbgm', 'top_k')),
)
_MEASURES = dict(
  setup_seconds='build and first round, s',
  setup_cpu_seconds='the same, s of CPU',
  round_seconds='a round, s',
  round_cpu_seconds='the same, s of CPU',
  peak_mb='peak memory, MB',
)


@dataclasses.dataclass(frozen=True)
class Shape:
  """Of a round. layers: of matrices, [rows, columns] each."""

  clients: int
  inputs: int
  layers: tuple[tuple[int, int], ...]


def shape_of(axis: str, size: int) -> Shape:
  """What runs at a point."""
  if axis == 'clients':
    return Shape(size, 784, ((784, 32), (32, 10)))
  if axis == 'population':
    return Shape(50, 784, ((785, 10),))
  if axis == 'numbers':
    return Shape(2, 100, ((100, size // 100),))
  return Shape(10, 10, ((10, 10),) * size)


def _model(shape: Shape, spec: Any) -> Any:
  """A chain of matrices; the loss is the distance of the last layer's mean from the label."""
  import numpy as np
  import tensorflow as tf
  import tensorflow_federated as tff

  rng = np.random.default_rng(0)
  weights = tuple(
    (rng.normal(size=size) / math.sqrt(size[0])).astype(np.float32) for size in shape.layers
  )

  @tf.function
  def predict(weights, x, training):
    del training
    for matrix in weights[0]:
      x = tf.tanh(tf.matmul(x[:, : matrix.shape[0]], matrix))
    return x

  @tf.function
  def loss(output, label, sample_weight=None):
    del sample_weight
    return tf.reduce_mean((tf.reduce_mean(output, 1) - label) ** 2)

  return tff.learning.models.FunctionalModel(
    initial_weights=(weights, ()), predict_on_batch_fn=predict, loss_fn=loss, input_spec=spec
  )


def _build(
  axis: str, size: int, method: str, folder: str
) -> tuple[dict[str, float], Callable[[], tuple[float, float]]]:
  """Seconds of each part of the set-up; a function that runs a round.

  That returns the round's seconds, and its seconds of CPU.
  """
  start = time.perf_counter()
  import numpy as np
  import tensorflow as tf
  import tensorflow_federated as tff

  from tff_lowrank import client_state
  from tff_lowrank import execution
  from tff_lowrank import learning

  imported = time.perf_counter()
  execution.set_local_context()
  shape = shape_of(axis, size)
  rng = np.random.default_rng(0)
  inputs = shape.layers[0][0]
  data = [
    tf.data.Dataset.from_tensor_slices(
      (rng.normal(size=(20, inputs)).astype(np.float32), np.ones(20, np.float32))
    ).batch(10)
    for _ in range(shape.clients)
  ]
  data_made, cpu_before = time.perf_counter(), time.process_time()
  process = learning.build_compressed_fed_avg(
    _model(shape, data[0].element_spec),
    tff.learning.optimizers.build_sgdm(0.05),
    codec=METHODS[method],
  )
  state, initial = process.initialize(), process.initialize_client()
  built, built_cpu = time.perf_counter(), time.process_time() - cpu_before
  ids = [str(i) for i in range(size if axis == 'population' else shape.clients)]
  store: Any = client_state.MemoryStore(initial)
  if axis == 'population':
    store = client_state.LmdbStore(initial, folder)
    for first in range(0, len(ids), 1000):
      store.stage(ids[first : first + 1000], [initial] * len(ids[first : first + 1000]))
    store.commit(0)
  filled = time.perf_counter()
  round_num = 0

  def run_round() -> tuple[float, float]:
    nonlocal state, round_num
    start, cpu_start = time.perf_counter(), time.process_time()
    round_num += 1
    cohort = [ids[i] for i in rng.choice(len(ids), shape.clients, replace=False)]
    output = process.next(state, store.read(cohort), data)
    state = output.state
    store.stage(cohort, output.client_states)
    store.commit(round_num)
    np.asarray(state.global_model_weights.trainable[0])
    return time.perf_counter() - start, time.process_time() - cpu_start

  first_round, first_cpu = run_round()
  run_round()  # LBGM's first round sends all in full.
  found = dict(
    import_seconds=imported - start,
    build_seconds=built - data_made,
    first_round_seconds=first_round,
    fill_seconds=filled - built,
    setup_seconds=built - data_made + first_round,
    setup_cpu_seconds=built_cpu + first_cpu,
  )
  return found, run_round


def measure(axis: str, size: int, method: str, rounds: int) -> dict[str, Any]:
  """A point, in a process of its own."""
  with tempfile.TemporaryDirectory() as folder:
    point = contender.Contender(method, _build, axis, size, method, folder)
    try:
      if not point.is_ready:
        raise RuntimeError(f'{method} with {size} {axis}: {point.failure}')
      contender.take_turns([point], rounds)
      return dict(
        axis=axis,
        size=size,
        method=method,
        **{key: round(value, 4) for key, value in point.found.items()},
        round_seconds=round(statistics.median(wall for wall, _ in point.answers), 5),
        round_cpu_seconds=round(statistics.median(cpu for _, cpu in point.answers), 5),
        peak_mb=round(point.peak_mb(), 1),
      )
    finally:
      point.close()


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
  """The exponent of the growth between the last two points."""
  return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def draw(rows: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
  """A column an axis, a row a measure."""
  import matplotlib

  matplotlib.use('agg')
  from matplotlib import pyplot as plt

  axes_names = list(dict.fromkeys(row['axis'] for row in rows))
  figure, panels = plt.subplots(
    len(_MEASURES),
    len(axes_names),
    figsize=(3.4 * len(axes_names), 13),
    squeeze=False,
    sharey='row',
    layout='constrained',
  )
  colors = dict(zip(METHODS, ('tab:blue', 'tab:orange', 'tab:green'), strict=True))
  for column, axis in enumerate(axes_names):
    for line, (measure_name, label) in enumerate(_MEASURES.items()):
      panel = panels[line][column]
      for method in METHODS:
        points = [r for r in rows if r['axis'] == axis and r['method'] == method]
        if len(points) > 1:
          sizes = [r['size'] for r in points]
          values = [r[measure_name] for r in points]
          panel.loglog(sizes, values, 'o-', color=colors[method], markersize=3)
          panel.annotate(
            f'{method} {slope(sizes, values):.2f}', (sizes[-1], values[-1]), fontsize=7, ha='right',
            va='bottom',
          )  # fmt: skip
      panel.grid(alpha=0.3)
      if line == 0:
        panel.set_title(axis)
      if column == 0:
        panel.set_ylabel(label)
  figure.savefig(path, dpi=130)
  plt.close(figure)


def _define_flags() -> None:
  flags.DEFINE_list('axes', list(AXES), 'What grows.')
  flags.DEFINE_integer('rounds', 5, 'Timed rounds of each point.', lower_bound=1)
  flags.DEFINE_integer('largest', None, 'Leaves out larger sizes.')
  flags.DEFINE_string('output_dir', None, 'Where growth.csv and growth.png go.')


def main(argv: Sequence[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'Expected flags only, found {argv[1:]}.')
  settings = flags.FLAGS
  rows = []
  print(
    'axis        size       method    import   build  first round      CPU   a round, s   peak MB'
  )
  for axis in settings.axes:
    sizes, methods = AXES[axis]
    for method in methods:
      for size in sizes:
        if settings.largest and size > settings.largest:
          continue
        row = measure(axis, size, method, settings.rounds)
        rows.append(row)
        print(
          f'{axis:10} {size:10,} {method:8} {row["import_seconds"]:8.1f} '
          f'{row["build_seconds"]:7.1f} {row["first_round_seconds"]:12.1f} '
          f'{row["setup_cpu_seconds"]:8.1f} {row["round_seconds"]:12.4f} {row["peak_mb"]:9.0f}',
          flush=True,
        )
  if settings.output_dir:
    folder = pathlib.Path(settings.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'growth.csv').open('w', newline='') as file:
      writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
      writer.writeheader()
      writer.writerows(rows)
    draw(rows, folder / 'growth.png')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
