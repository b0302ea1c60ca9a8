"""Processes by what specs say."""

import numpy as np
import pytest
import tensorflow as tf

from tests.runs import small
from tff_lowrank import codecs
from tff_lowrank import methods
from tff_lowrank.runs import processes
from tff_lowrank.runs import runner
from tff_lowrank.runs import spec as spec_lib
from tff_lowrank.simulation import batches


def steps(optimizer, gradients=(1.0, 1.0, 1.0)):
  """The steps of a weight that gets these gradients, one after the other."""
  state, weight, found = optimizer.initialize(tf.TensorSpec([])), tf.constant(0.0), []
  for gradient in gradients:
    before = weight
    state, weight = optimizer.next(state, weight, tf.constant(gradient))
    found.append(float(weight - before))
  return found


@pytest.mark.parametrize(
  'given, expected',
  [
    (dict(server_learning_rate=0.5), [-0.5, -0.5, -0.5]),
    (dict(server_momentum=0.5), [-1, -1.5, -1.75]),
    # Bias-corrected, both moments of equal gradients are 1.
    (dict(server_optimizer='adam', server_learning_rate=0.1), [-0.1, -0.1, -0.1]),
    (
      dict(server_optimizer='adagrad', server_learning_rate=1.0, server_epsilon=0.0),
      [-1 / np.sqrt(0.1 + n) for n in (1, 2, 3)],
    ),
  ],
)
def test_server_optimizers(given, expected):
  optimizer = processes.build_server_optimizer(spec_lib.make('fed_avg', given))
  np.testing.assert_allclose(steps(optimizer), expected, rtol=1e-4)


def test_client_optimizers():
  optimizer = processes.build_client_optimizer(
    spec_lib.make('fed_avg', dict(client_learning_rate=0.3, server_momentum=0.9))
  )
  np.testing.assert_allclose(steps(optimizer), [-0.3] * 3, rtol=1e-5)
  # At the clients Adam's second moments are kept at 0.999.
  optimizer = processes.build_client_optimizer(
    spec_lib.make('fed_avg', dict(client_optimizer='adam', client_learning_rate=0.1))
  )
  m, v = (0.9 * 0.1 + 0.1 * 3) / (1 - 0.9**2), (0.999 * 0.001 + 0.001 * 9) / (1 - 0.999**2)
  assert steps(optimizer, (1.0, 3.0))[1] == pytest.approx(-0.1 * m / np.sqrt(v), rel=1e-3)


def next_round(given, task, method='fed_avg'):
  """The weights before and after a round of all clients of a task, and what each reports."""
  spec = spec_lib.make(method, small.OWN | given, task)
  task = runner.prepare_task(spec, task)
  model, clients = task.build_model(spec.seed), task.train.client_ids
  process = processes.build_process(spec, model, task.keras_model_fn, len(clients))
  state, memory = process.initialize(), [process.initialize_client() for _ in clients]
  cut = batches.ClientBatches(1, 0, 1)
  data = [cut.dataset(task.train, client, 1, task.preprocess) for client in clients]
  output = process.next(state, memory, data)
  weights = [process.get_model_weights(s).trainable for s in (state, output.state)]
  return *weights, output.reports


def test_the_weights_of_the_mean():
  """One client of 12 examples and one of 36, which take one step each."""
  by_client = {'a': small.examples(12, 1), 'b': small.examples(36, 2)}
  alone = [
    small.tasks.from_client_data({k: v}, small.examples(9), small.network)
    for k, v in by_client.items()
  ]
  both = small.tasks.from_client_data(by_client, small.examples(9), small.network)
  given = dict(clients_per_round=0)
  [(_, a, _), (_, b, _)] = (next_round(given, task) for task in alone)
  for weighting, share in (('num_examples', 0.25), ('uniform', 0.5)):
    _, mean, _ = next_round(given | dict(client_weighting=weighting), both)
    for one, other, found in zip(a, b, mean, strict=True):
      np.testing.assert_allclose(found, share * one + (1 - share) * other, atol=1e-6)


def test_codecs_of_both_ways():
  before, after, reports = next_round(dict(uplink='float16', downlink='float16'), small.own_task())
  size = sum(w.size for w in before)
  for report in reports:
    assert report['uplink']['payload'] == 16 * size
    # Who was never seen fetches the model whole.
    down = {kind: int(bits) for kind, bits in report['downlink'].items() if bits}
    assert down == dict(catch_up=32 * size)
  assert not np.array_equal(before[0], after[0])


def test_a_method_without_effect_on_the_model():
  def one_layer():
    return tf.keras.Sequential([tf.keras.Input((4,)), tf.keras.layers.Dense(3)])

  task = small.own_task(one_layer)
  spec = spec_lib.make('fed_per', dict(client_test_fraction=0.2), task)
  with pytest.raises(ValueError, match='no shared weights in the model'):
    processes.build_process(spec, task.build_model(1), one_layer, 4)


def test_a_method_gets_what_was_chosen(monkeypatch):
  found = []
  record = spec_lib.methods.Method(
    'own', 'About.', 'Source.', build=lambda parts: found.append(parts)
  )
  monkeypatch.setattr(methods.registry, 'METHODS', methods.METHODS | dict(own=record))
  spec = spec_lib.make('own', dict(uplink='top_k(0.1)', seed=5))
  model, build = object(), object()
  processes.build_process(spec, model, build, 7)
  [parts] = found
  assert parts.model is model and parts.keras_model_fn is build and parts.num_clients == 7
  assert parts.choice.seed == 5 and parts.choice.uplink == codecs.TopK(0.1)
