"""Computations that several tests of execution run."""

import collections

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import execution
from tff_lowrank.execution import xla

sgd = tff.learning.optimizers.build_sgdm

SIZES = (7, 4, 10, 3, 1)
BATCH, CLIENT_RATE, MOMENTUM = 3, 0.2, 0.9


def federated_averaging(rng):
  """A process and data of clients whose last batches are smaller than the others."""
  model = linear.build_model(rng)
  process = tff.learning.algorithms.build_weighted_fed_avg(
    model, sgd(CLIENT_RATE), sgd(1.0, momentum=MOMENTUM)
  )
  examples = [linear.examples(rng, n) for n in SIZES]
  return process, examples, [linear.dataset(*e, BATCH) for e in examples]


def numpy_rounds(weights, examples, rounds):
  """The weights after rounds of federated averaging with a heavy-ball server, in float64."""
  weights = [np.float64(w) for w in weights]
  velocity = [np.zeros_like(w) for w in weights]
  total = sum(len(x) for x, _ in examples)
  for _ in range(rounds):
    mean = [np.zeros_like(w) for w in weights]
    for x, y in examples:
      trained = linear.train(weights, x, y, BATCH, CLIENT_RATE)
      for m, w, t in zip(mean, weights, trained, strict=True):
        m += len(x) / total * (w - t)
    velocity = [MOMENTUM * v + m for v, m in zip(velocity, mean, strict=True)]
    weights = [w - v for w, v in zip(weights, velocity, strict=True)]
  return weights


@tff.tensorflow.computation(tff.SequenceType(np.int64))
def total(numbers):
  """The sum of a data set, by a loop over it."""
  return numbers.reduce(np.int64(0), lambda a, b: a + b)


@tff.federated_computation(tff.FederatedType(tff.SequenceType(np.int64), tff.CLIENTS))
def sum_of_all(numbers):
  return tff.federated_sum(tff.federated_map(total, numbers))


@tff.tensorflow.computation(tff.SequenceType(np.int64))
def weave(numbers):
  """A number that depends on the order of the elements, and on what a second pass gives."""
  digits = numbers.reduce(np.int64(0), lambda a, b: 10 * a + b)
  again = numbers.reduce(np.int64(0), lambda a, b: 10 * a + b)
  return collections.OrderedDict(first=digits, second=again)


def lstm_averaging(rng):
  """Next-token prediction with a masked recurrent layer, its model made of variables."""
  x = rng.integers(0, 9, (5, 6)).astype(np.int32)
  data = [tf.data.Dataset.from_tensor_slices((x[:n], x[:n])).batch(2) for n in (5, 4)]

  def model():
    tf.keras.utils.set_random_seed(1)
    layers = tf.keras.layers
    inputs = layers.Input((None,))
    hidden = layers.LSTM(5, return_sequences=True)(layers.Embedding(9, 4, mask_zero=True)(inputs))
    return tff.learning.models.from_keras_model(
      tf.keras.Model(inputs, layers.Dense(9)(hidden)),
      loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      input_spec=data[0].element_spec,
    )

  process = tff.learning.algorithms.build_weighted_fed_avg(model, sgd(0.5), sgd(1.0))
  return process, data


def run_rounds(process, data, rounds):
  """The trainable weights and metrics after some rounds."""
  state = process.initialize()
  for _ in range(rounds):
    output = process.next(state, data)
    state = output.state
  return process.get_model_weights(state).trainable, output.metrics


def on_xla(monkeypatch, is_batched, run, **settings):
  """What `run()` gives in a context that runs clients on XLA, batched or one after the other.

  Returns the programs of each stage as well. With `settings`, of the context.
  """
  programs_class, made = xla.StagePrograms, []

  def remembered(stage, memory, **_):
    made.append(programs_class(stage, memory, batched=is_batched))
    return made[-1]

  with monkeypatch.context() as patch:
    patch.setattr(xla, 'StagePrograms', remembered)
    patch.setattr(xla, '_SLOW_ON_CPU', {})
    with execution.create_local_context(compile='xla', **settings):
      result = run()
  assert made and all(p.failure is None and p.batched == is_batched for p in made)
  assert any(p.num_programs for p in made)
  return result, made


def run_in_xla(monkeypatch, process, data, is_batched, rounds=2):
  """As `run_rounds` on XLA programs, batched or not; and the programs of each stage."""
  return on_xla(monkeypatch, is_batched, lambda: run_rounds(process, data, rounds))


def run_with_memory(process, data, rounds=2):
  """The weights and the clients' memory, flat, after some rounds."""
  state, memory = process.initialize(), [process.initialize_client() for _ in data]
  for _ in range(rounds):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
  return [*state.global_model_weights.trainable, *tf.nest.flatten(memory)]
