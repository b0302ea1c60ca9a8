import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.execution import cases
from tests.learning import linear
from tff_lowrank import client_work
from tff_lowrank import codecs
from tff_lowrank import execution
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


def clients_of(rng, rates=(None, None)):
  clients = [linear.examples(rng, n) for n in (5, 9)]
  data = [linear.dataset(x, y, BATCH, r) for (x, y), r in zip(clients, rates, strict=True)]
  return clients, data


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


# Of the two clients. None is a power of two.
RATES = (0.3, 0.07)
OWN_RATES = client_work.ClientRates(sgd(1.0))


def begin(process):
  return process.initialize(), [process.initialize_client() for _ in RATES]


def assert_equal(a, b):
  for one, other in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True):
    np.testing.assert_array_equal(one, other)


# Of the others, `test_each_client_trains_as_if_all_had_its_rate` says it for two rates.
@pytest.mark.parametrize(
  'method, decay',
  [
    *(
      pytest.param(m, 1, marks=[pytest.mark.slow] * (m not in ('fed_avg', 'scaffold', 'fed_dyn')))
      for m in BUILDERS
    ),
    ('scaffold', 0.7),
  ],
)
def test_one_rate_for_all_clients_is_the_plain_one_to_the_bit(method, decay, rng):
  def decaying(optimizer):
    return optimizer if decay == 1 else client_work.exponential_decay(optimizer, decay)

  model = linear.build_model(rng)
  found = []
  for optimizer, rate in [
    (decaying(sgd(0.3)), None),
    (client_work.ClientRates(decaying(sgd(1.0))), 0.3),
  ]:
    _, data = clients_of(np.random.default_rng(1), [rate] * 2)
    process = BUILDERS[method](model, optimizer)
    state, memory = begin(process)
    for _ in range(2):
      state, memory, reports, metrics = process.next(state, memory, data)
    found.append((state, memory, reports, metrics))
  assert_equal(*found)


@pytest.mark.parametrize('method', [m for m in BUILDERS if m not in ('scaffold', 'fed_dyn')])
def test_each_client_trains_as_if_all_had_its_rate(method, rng):
  """Where the server takes the mean model. SCAFFOLD and FedDyn: scaffold_test, fed_dyn_test."""
  model = linear.build_model(rng)
  clients, data = clients_of(rng, RATES)
  process = BUILDERS[method](model, OWN_RATES)
  plain = [BUILDERS[method](model, sgd(rate)) for rate in RATES]
  state, memory = begin(process)
  for _ in range(2):
    alone = [
      constant.next(state, [kept], [linear.dataset(x, y, BATCH)])
      for constant, kept, (x, y) in zip(plain, memory, clients, strict=True)
    ]
    state, memory, reports, _ = process.next(state, memory, data)
    assert_equal(memory, [output.client_states[0] for output in alone])
    assert_equal(reports, [output.reports[0] for output in alone])
    models = [output.state.global_model_weights.trainable for output in alone]
    for got, first, second in zip(state.global_model_weights.trainable, *models, strict=True):
      np.testing.assert_allclose(got, (5 * first + 9 * second) / 14, atol=1e-6)
      assert np.abs(first - second).max() > 1e-3


def test_rates_by_client_and_round_follow_numpys_sgd(rng):
  model = linear.build_model(rng)
  clients, data = clients_of(rng, RATES)
  decaying = client_work.exponential_decay(sgd(1.0), 0.7)
  process = learning.build_fed_avg(model, client_work.ClientRates(decaying))
  state, memory = begin(process)
  weights = [np.float64(w) for w in model.initial_weights[0]]
  for t in range(3):
    state, memory, *_ = process.next(state, memory, data)
    trained = [
      linear.train(weights, x, y, BATCH, rate * 0.7**t)
      for (x, y), rate in zip(clients, RATES, strict=True)
    ]
    weights = [(5 * first + 9 * second) / 14 for first, second in zip(*trained, strict=True)]
    for got, expected in zip(state.global_model_weights.trainable, weights, strict=True):
      np.testing.assert_allclose(got, expected, atol=1e-6)


OPTIMIZERS = {
  'momentum': lambda rate: tff.learning.optimizers.build_sgdm(rate, momentum=0.9),
  'adam': tff.learning.optimizers.build_adam,
  'adamw': tff.learning.optimizers.build_adamw,
  'adagrad': tff.learning.optimizers.build_adagrad,
  'yogi': tff.learning.optimizers.build_yogi,
  'rmsprop': tff.learning.optimizers.build_rmsprop,
}


@pytest.mark.parametrize(
  'name, is_functional',
  [
    ('momentum', True),
    ('momentum', False),
    ('adam', True),
    ('rmsprop', True),
    *(pytest.param(n, True, marks=pytest.mark.slow) for n in ('adamw', 'adagrad', 'yogi')),
  ],
)
def test_optimizers_with_slots_step_at_the_clients_rate(name, is_functional, rng):
  """Against TFF's own training with that rate."""
  model = linear.build_model(rng)
  clients, data = clients_of(rng, RATES)
  start = tff.learning.models.ModelWeights(*model.initial_weights)

  def variable_model():
    return tff.learning.models.from_keras_model(
      linear.keras_model(),
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      model.input_spec,
    )

  model_fn = model if is_functional else variable_model
  make = OPTIMIZERS[name]
  process = learning.build_fed_avg(model_fn, client_work.ClientRates(make(1.0)))
  state = process.set_model_weights(process.initialize(), start)
  got = process.next(state, [(), ()], data).state.global_model_weights.trainable
  alone = []
  for (x, y), rate in zip(clients, RATES, strict=True):
    plain = tff.learning.algorithms.build_weighted_fed_avg(
      model, make(rate), tff.learning.optimizers.build_sgdm(1.0)
    )
    state = plain.set_model_weights(plain.initialize(), start)
    done = plain.next(state, [linear.dataset(x, y, BATCH)]).state
    alone.append(plain.get_model_weights(done).trainable)
  for found, first, second in zip(tf.nest.flatten(got), *map(tf.nest.flatten, alone), strict=True):
    np.testing.assert_allclose(found, (5 * first + 9 * second) / 14, atol=1e-6)
    assert np.abs(first - second).max() > 1e-3


def trained(rng, model, numbers):
  """The model after two rounds of clients with so many examples each and rates of their own."""
  process = learning.build_scaffold(model, OWN_RATES, num_clients=len(numbers))
  state, memory = process.initialize(), [process.initialize_client() for _ in numbers]
  clients = [linear.examples(rng, n) for n in numbers]
  data = [linear.dataset(*xy, BATCH, 0.1 * (i + 1)) for i, xy in enumerate(clients)]
  for _ in range(2):
    state, memory, *_ = process.next(state, memory, data)
  return process.get_model_weights(state).trainable


# Clients with a smaller last batch run one by one, others in blocks.
@pytest.mark.each_once
@pytest.mark.parametrize('numbers', [(5, 9, 0, 4), (8, 12, 4, 16)])
@pytest.mark.parametrize('is_batched', [False, True])
def test_xla_steps_at_the_clients_rates(rng, monkeypatch, is_batched, numbers):
  model = linear.build_model(rng)
  run = lambda: trained(np.random.default_rng(1), model, numbers)  # noqa: E731
  found, _ = cases.on_xla(monkeypatch, is_batched, run)
  with execution.create_local_context(compile='tensorflow'):
    wanted = run()
  for a, b in zip(found, wanted, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_stock_runtime_steps_at_the_clients_rates(rng):
  model = linear.build_model(rng)
  found = []
  for context in (execution.create_local_context(compile='tensorflow'), execution.stock_context()):
    with context:
      found.append(trained(np.random.default_rng(1), model, (5, 9)))
  for a, b in zip(*found, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_batches_without_rates_are_refused(rng):
  model = linear.build_model(rng)
  _, data = clients_of(rng)
  process = learning.build_fed_avg(model, OWN_RATES)
  with pytest.raises(TypeError, match='learning_rate'):
    process.next(*begin(process), data)


def test_scaffolds_client_with_a_rate_of_zero_learns_nothing(rng):
  model = linear.build_model(rng)
  _, data = clients_of(rng, (0.3, 0.0))
  process = learning.build_scaffold(model, OWN_RATES, num_clients=2)
  state, memory = begin(process)
  first, second = process.next(state, memory, data).client_states
  assert any(np.any(x) for x in tf.nest.flatten(first['work']['control']))
  assert not any(np.any(x) for x in tf.nest.flatten(second['work']['control']))


def test_evaluation_after_training_has_the_clients_rates(rng):
  model = linear.build_model(rng)
  x, y = linear.examples(rng, 120)
  test = arrays.partitioned(arrays.Split(x, y), [np.arange(40), np.arange(40, 80)])
  rates = dict(client_0=8.0, client_1=0.01)
  process = learning.build_fed_avg(model, OWN_RATES)
  evaluate = evaluation.build_personal_evaluation(
    model,
    process,
    test,
    lambda batch: batch,
    client_optimizer=OWN_RATES,
    train_dataset=lambda client: linear.dataset(x[80:], y[80:], 8, rates[client]),
  )
  got = evaluate(process.initialize(), lambda ids: [(), ()])
  accuracies = []
  for part, rate in zip((slice(0, 40), slice(40, 80)), rates.values(), strict=True):
    kernel, bias = linear.train(model.initial_weights[0], x[80:], y[80:], 8, rate)
    accuracies.append(((x[part] @ kernel + bias).argmax(1) == y[part]).mean())
  np.testing.assert_allclose(got[evaluation.TRAINED_ACCURACY], np.mean(accuracies), rtol=1e-6)
  assert got[evaluation.TRAINED_ACCURACY] != got['personal_accuracy']


def test_evaluation_needs_the_rates_of_the_process(rng):
  model = linear.build_model(rng)
  split = arrays.partitioned(arrays.Split(*linear.examples(rng, 8)), [np.arange(8)])
  for ours, theirs in [(sgd(RATE), OWN_RATES), (OWN_RATES, sgd(RATE))]:
    with pytest.raises(ValueError, match='only one has rates by client'):
      evaluation.build_personal_evaluation(
        model,
        learning.build_fed_avg(model, ours),
        split,
        lambda batch: batch,
        client_optimizer=theirs,
        train_dataset=lambda _: None,
      )
