"""The rounds of `benchmarks.workloads` as hand-written programs without TFF, on all cores.

Each builder returns a function that runs a round, and is to be called in a process of its own.
"""

from collections.abc import Callable
import concurrent.futures
import importlib
import os
from typing import Any

from benchmarks import workloads


def _steps_of(workload: str) -> tuple[Any, Any]:
  """All clients' inputs and labels, [clients, steps, batch, ...]."""
  import numpy as np

  clients, examples, batch_size = workloads.settings(workload)
  steps = examples // batch_size
  return tuple(
    np.stack(of_all).reshape(clients, steps, batch_size, *of_all[0].shape[1:])
    for of_all in zip(*workloads.arrays(workload), strict=True)
  )


def tensorflow(workload: str, jit_compile: bool = False) -> Callable[[], None]:
  """A `tf.function` a core, each with its share of the clients one after the other."""
  import numpy as np
  import tensorflow as tf

  loss_fn = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  x, y = _steps_of(workload)
  num_clients, steps = x.shape[:2]
  initial = [tf.constant(v) for v in workloads.keras_model(workload).get_weights()]

  def trainer() -> Callable[..., Any]:
    model = workloads.keras_model(workload)
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
      return total

    return train

  cores = os.cpu_count() or 1
  shares = [
    (trainer(), tf.constant(x[part]), tf.constant(y[part]))
    for part in np.array_split(np.arange(num_clients), cores)
    if len(part)
  ]
  pool = concurrent.futures.ThreadPoolExecutor(cores)

  def run_round() -> None:
    nonlocal initial
    totals = list(pool.map(lambda share: share[0](initial, *share[1:]), shares))
    initial = [
      w - tf.add_n(t) / float(num_clients)
      for w, t in zip(initial, zip(*totals, strict=True), strict=True)
    ]
    initial[0].numpy()

  return run_round


def tensorflow_xla(workload: str) -> Callable[[], None]:
  """The same, compiled by XLA."""
  return tensorflow(workload, jit_compile=True)


def jax_in_turn(workload: str) -> Callable[[], None]:
  """A jax device a core, each with its share of the clients one after the other."""
  cores = os.cpu_count() or 1
  os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={cores}'
  import jax
  import numpy as np

  from benchmarks.device import by_hand

  x, y = _steps_of(workload)
  clients, *shape = x.shape
  if clients % cores:
    raise NotImplementedError(f'{clients} clients cannot be divided evenly among {cores} cores.')
  variables = workloads.keras_model(workload).trainable_variables
  case = dict(
    name=workload,
    shape=(clients // cores, *shape),
    weights=[
      dict(name=v.name, shape=v.shape.as_list(), stddev=float(np.std(v.numpy()))) for v in variables
    ],
  )
  training = by_hand.build(case, in_turn=True, patches=False)
  by_core = [np.reshape(a, (cores, clients // cores, *a.shape[1:])) for a in (x, y)]
  x, y = (jax.device_put_sharded(list(a), jax.devices()) for a in by_core)

  def of_core(weights: Any, x: Any, y: Any) -> Any:
    return jax.lax.pmean(training.round(weights, x, y)[0], 'cores')

  run = jax.pmap(of_core, 'cores')
  weights = jax.device_put_replicated(training.arguments[0], jax.devices())

  def run_round() -> None:
    nonlocal weights
    weights = jax.block_until_ready(run(weights, x, y))

  return run_round


def torch_vmap(workload: str) -> Callable[[], None]:
  """`torch.func.vmap` over clients, where torch is installed."""
  torch = importlib.import_module('torch')  # In no lock.
  if workload not in 'BC':
    raise NotImplementedError('Written for the MLP.')
  x, y = map(torch.from_numpy, _steps_of(workload))
  y = y.long()
  torch.set_num_threads(os.cpu_count() or 1)
  shapes = ((784, 200), (200,), (200, 10), (10,))
  weights = tuple(0.05 * torch.randn(shape) for shape in shapes)

  def loss(w, x, y):
    logits = torch.relu(x @ w[0] + w[1]) @ w[2] + w[3]
    return torch.nn.functional.cross_entropy(logits, y)

  gradient = torch.func.vmap(torch.func.grad(loss))

  def run_round() -> None:
    nonlocal weights
    current = tuple(w.expand(len(x), *w.shape) for w in weights)
    for i in range(x.shape[1]):
      gradients = gradient(current, x[:, i], y[:, i])
      current = tuple(w - workloads.RATE * g for w, g in zip(current, gradients, strict=True))
    weights = tuple(w.mean(0) for w in current)

  return run_round


BUILDERS = dict(
  tensorflow=tensorflow,
  tensorflow_xla=tensorflow_xla,
  jax_in_turn=jax_in_turn,
  torch_vmap=torch_vmap,
)
