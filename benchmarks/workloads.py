"""The workloads of `benchmarks.round_time`."""

from collections.abc import Callable
from typing import Any

RATE = 0.1
# Rounds before the timed ones, in which programs are compiled.
WARM_UP = 3


def settings(workload: str) -> tuple[int, int, int]:
  """Number of clients, examples per client, batch size."""
  return dict(A=(10, 100, 20), B=(50, 60, 10), C=(500, 60, 10), D=(10, 100, 10))[workload]


def keras_model(workload: str) -> Any:
  """The workload's model."""
  import tensorflow as tf

  layers = tf.keras.layers
  if workload == 'A':
    return tf.keras.Sequential(
      [
        layers.InputLayer((28, 28, 1)),
        layers.Conv2D(32, 5, padding='same', activation='relu'),
        layers.MaxPool2D(),
        layers.Conv2D(64, 5, padding='same', activation='relu'),
        layers.MaxPool2D(),
        layers.Flatten(),
        layers.Dense(512, activation='relu'),
        layers.Dense(62),
      ]
    )
  if workload == 'D':
    inputs = layers.Input((None,))
    embedded = layers.Embedding(504, 32, mask_zero=True)(inputs)
    hidden = layers.LSTM(64, return_sequences=True)(embedded)
    return tf.keras.Model(inputs, layers.Dense(504)(layers.Dense(32)(hidden)))
  return tf.keras.Sequential(
    [layers.InputLayer((784,)), layers.Dense(200, activation='relu'), layers.Dense(10)]
  )


def arrays(workload: str) -> list[tuple[Any, Any]]:
  """Random examples of each client: times do not depend on them."""
  import numpy as np

  rng = np.random.default_rng(0)
  clients, examples, _ = settings(workload)
  if workload == 'D':
    words = lambda: rng.integers(1, 504, (examples, 20)).astype(np.int32)  # noqa: E731
    return [(words(), words()) for _ in range(clients)]
  shape, classes = ((28, 28, 1), 62) if workload == 'A' else ((784,), 10)
  return [
    (
      rng.random((examples, *shape), dtype=np.float32),
      rng.integers(0, classes, examples).astype(np.int32),
    )
    for _ in range(clients)
  ]


def tff_round(workload: str) -> Callable[[], None]:
  """A function that runs a round of the workload in the current context."""
  import tensorflow as tf
  import tensorflow_federated as tff

  *_, batch_size = settings(workload)
  datasets = [
    tf.data.Dataset.from_tensor_slices(of_client).batch(batch_size)
    for of_client in arrays(workload)
  ]
  loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
  spec = datasets[0].element_spec
  if workload == 'D':
    model = lambda: tff.learning.models.from_keras_model(  # noqa: E731
      keras_model(workload), loss=loss, input_spec=spec
    )
  else:
    model = tff.learning.models.functional_model_from_keras(keras_model(workload), loss, spec)
  sgd = tff.learning.optimizers.build_sgdm
  process = tff.learning.algorithms.build_weighted_fed_avg(model, sgd(RATE), sgd(1.0))
  state = process.initialize()

  def run_round() -> None:
    nonlocal state
    state = process.next(state, datasets).state

  return run_round
