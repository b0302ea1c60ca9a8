import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_work
from tff_lowrank import codecs
from tff_lowrank import freezing
from tff_lowrank import learning
from tff_lowrank.datasets import arrays
from tff_lowrank.simulation import evaluation

RATE = 0.25
BATCH = 4
# Powers of two, so that rates are equal to the bit however they are computed.
FACTORS = (1.0, 0.5, 0.125)

BUILDERS = {
  'fed_avg': learning.build_fed_avg,
  'downlink': lambda *args: learning.build_compressed_fed_avg(
    *args, codec=codecs.Identity(), downlink=codecs.TopK(0.5)
  ),
  'apf': lambda *args: learning.build_apf_fed_avg(
    *args, freezing_settings=freezing.Settings(ema_decay=0.5)
  ),
  'personal': lambda *args: learning.build_personal_fed_avg(*args, personal=[False, True]),
  'fed_prox': lambda *args: learning.build_fed_prox(*args, mu=0.1),
  'scaffold': lambda *args: learning.build_scaffold(*args, num_clients=2),
  'fed_dyn': lambda *args: learning.build_fed_dyn(*args, num_clients=2, alpha=0.1),
}


def sgd(rate):
  return tff.learning.optimizers.build_sgdm(rate)


def scheduled(rate=RATE):
  return client_work.RoundSchedule(sgd(rate), lambda t: tf.gather(FACTORS, t))


def clients_of(rng):
  clients = [linear.examples(rng, n) for n in (5, 9)]
  return clients, [linear.dataset(x, y, BATCH) for x, y in clients]


@pytest.mark.parametrize('method', BUILDERS)
def test_a_round_is_one_at_its_rate(method, rng):
  model = linear.build_model(rng)
  _, data = clients_of(rng)
  process = BUILDERS[method](model, scheduled())
  state, memory = process.initialize(), [process.initialize_client() for _ in data]
  assert state.client_work == 0
  state, memory, *_ = process.next(state, memory, data)
  assert state.client_work == 1
  constant = BUILDERS[method](model, sgd(RATE * FACTORS[1]))
  wanted = constant.next(state._replace(client_work=()), memory, data)
  got = process.next(state, memory, data)
  assert got.state.client_work == 2
  got = got._replace(state=got.state._replace(client_work=()))
  for a, b in zip(tf.nest.flatten(got[:3]), tf.nest.flatten(wanted[:3]), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_rounds_follow_numpys_sgd(rng):
  model = linear.build_model(rng)
  clients, data = clients_of(rng)
  process = learning.build_fed_avg(model, client_work.exponential_decay(sgd(RATE), 0.7))
  state, memory = process.initialize(), [process.initialize_client() for _ in data]
  weights = [np.float64(w) for w in model.initial_weights[0]]
  for t in range(3):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    trained = [linear.train(weights, x, y, BATCH, RATE * 0.7**t) for x, y in clients]
    weights = [(5 * first + 9 * second) / 14 for first, second in zip(*trained, strict=True)]
    for got, expected in zip(state.global_model_weights.trainable, weights, strict=True):
      np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize(
  'make',
  [
    tff.learning.optimizers.build_adam,
    lambda rate: tff.learning.optimizers.build_sgdm(rate, momentum=0.9),
  ],
  ids=['adam', 'momentum'],
)
def test_variables_and_functions_take_the_same_steps(make, rng):
  model = linear.build_model(rng)
  _, data = clients_of(rng)

  def variable_model():
    return tff.learning.models.from_keras_model(
      linear.keras_model(),
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      model.input_spec,
    )

  optimizer = client_work.RoundSchedule(make(RATE), lambda t: tf.gather(FACTORS[1:], t))
  start = tff.learning.models.ModelWeights(*model.initial_weights)
  found = []
  for model_fn, by in [
    (model, make(RATE * FACTORS[1])),
    (model, optimizer),
    (variable_model, optimizer),
  ]:
    process = learning.build_fed_avg(model_fn, by)
    state = process.initialize()
    state = process.set_model_weights(state, start)
    state = process.next(state, [()] * len(data), data).state
    found.append(tf.nest.flatten(state.global_model_weights.trainable))
  for other in found[1:]:
    for a, b in zip(other, found[0], strict=True):
      np.testing.assert_allclose(a, b, atol=1e-6)


def test_evaluation_after_training_has_the_next_rounds_rate(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 60)
  test = arrays.partitioned(arrays.Split(x, y), [np.arange(40)])
  process = learning.build_fed_avg(model, scheduled(rate=4.0))
  evaluate = evaluation.build_personal_evaluation(
    model,
    process,
    test,
    lambda batch: batch,
    client_optimizer=scheduled(rate=4.0),
    train_dataset=lambda _: linear.dataset(x[40:], y[40:], 8),
  )
  state = process.initialize()._replace(client_work=2)
  got = evaluate(state, lambda ids: [()])[evaluation.TRAINED_ACCURACY]
  accuracies = []
  for factor in FACTORS:
    kernel, bias = linear.train(model.initial_weights[0], x[40:], y[40:], 8, 4 * factor)
    accuracies.append(((x[:40] @ kernel + bias).argmax(1) == y[:40]).mean())
  np.testing.assert_allclose(got, accuracies[2], rtol=1e-6)
  assert accuracies[2] not in accuracies[:2]


def test_evaluation_needs_the_schedule_of_the_process(rng):
  model = linear.build_model(rng)
  split = arrays.partitioned(arrays.Split(*linear.examples(rng, 8)), [np.arange(8)])
  for ours, theirs in [(sgd(RATE), scheduled()), (scheduled(), sgd(RATE))]:
    with pytest.raises(ValueError, match='only one has a schedule'):
      evaluation.build_personal_evaluation(
        model,
        learning.build_fed_avg(model, ours),
        split,
        lambda batch: batch,
        client_optimizer=theirs,
        train_dataset=lambda _: None,
      )


def test_a_constant_rate_is_fed_avg_to_the_bit(rng):
  model = linear.build_model(rng)
  _, data = clients_of(rng)
  weights = []
  for optimizer in (sgd(RATE), client_work.exponential_decay(sgd(RATE), 1)):
    process = learning.build_fed_avg(model, optimizer)
    state = process.initialize()
    for _ in range(2):
      state = process.next(state, [()] * len(data), data).state
    weights.append(state.global_model_weights.trainable)
  for a, b in zip(*weights, strict=True):
    np.testing.assert_array_equal(a, b)


def test_at_a_rate_of_zero_scaffolds_clients_learn_nothing(rng):
  model = linear.build_model(rng)
  _, data = clients_of(rng)
  still = client_work.RoundSchedule(sgd(RATE), lambda t: tf.cast(t < 1, tf.float32))
  process = learning.build_scaffold(model, still, num_clients=2)
  state, memory = process.initialize(), [process.initialize_client() for _ in data]
  first = process.next(state, memory, data)
  second = process.next(first.state, first.client_states, data)
  for a, b in zip(
    tf.nest.flatten(second.client_states), tf.nest.flatten(first.client_states), strict=True
  ):
    np.testing.assert_array_equal(a, b)
    assert np.any(a)
