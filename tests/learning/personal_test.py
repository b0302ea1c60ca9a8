"""Personal weights stay at the clients, and rounds are those of the definition."""

import collections
import pickle

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import execution
from tff_lowrank import layers
from tff_lowrank import learning
from tff_lowrank import models

optimizers = tff.learning.optimizers
sgd = optimizers.build_sgdm

RATE, BATCH = 0.2, 4
KERNEL, BIAS = 18 * 32, 3 * 32  # Bits.
NUMBERS = (8, 11, 16)


@pytest.fixture
def model(rng):
  return linear.build_model(rng)


@pytest.fixture
def clients(rng):
  return dict(zip('abc', (linear.examples(rng, n) for n in NUMBERS), strict=True))


def datasets(clients, cohort=None):
  return [linear.dataset(*clients[c], BATCH) for c in cohort or clients]


def uploads(computation):
  """The types of all that goes from clients to the server."""

  def visit(block):
    if isinstance(block, tff.framework.Intrinsic):
      signature = block.type_signature
      result = getattr(signature, 'result', None)
      if isinstance(result, tff.FederatedType) and result.placement is tff.SERVER:
        parameter = signature.parameter
        for part in [parameter] if isinstance(parameter, tff.FederatedType) else parameter:
          if isinstance(part, tff.FederatedType) and part.placement is tff.CLIENTS:
            yield part.member
    for child in block.children():
      yield from visit(child)

  return list(visit(computation.to_building_block()))


def holds(type_spec, shape):
  return tff.types.contains(
    type_spec, lambda t: isinstance(t, tff.TensorType) and tuple(t.shape) == shape
  )


@pytest.mark.each_once
@pytest.mark.parametrize('personal', [[False, True], [True, False], [True, True], [False, False]])
@pytest.mark.parametrize('codec', [None, codecs.LookBack(codecs.TopK(0.5))])
def test_personal_weights_are_in_no_upload_and_not_at_the_server(model, personal, codec):
  process = learning.build_personal_fed_avg(model, sgd(RATE), personal=personal, codec=codec)
  sent = uploads(process.next)
  state_type = process.initialize.type_signature.result.member
  assert len(sent) >= 3  # The update, its weight and the metrics.
  for is_personal, shape in zip(personal, [(6, 3), (3,)], strict=True):
    assert any(holds(t, shape) for t in sent) == (not is_personal)
    assert holds(state_type, shape) == (not is_personal)
    memory_type = process.initialize_client.type_signature.result
    if any(personal) and codec is None:
      assert holds(memory_type, shape) == is_personal


@pytest.mark.parametrize('weighting', list(tff.learning.ClientWeighting))
def test_rounds_equal_numpy_under_sampling(rng, model, clients, weighting):
  process = learning.build_personal_fed_avg(
    model, sgd(RATE), personal=[False, True], client_weighting=weighting
  )
  state = process.initialize()
  memory = {c: process.initialize_client() for c in clients}
  kernel, first_bias = (np.float64(w) for w in model.initial_weights[0])
  bias = {}
  for cohort in ('ab', 'bc', 'ac', 'abc'):
    output = process.next(state, [memory[c] for c in cohort], datasets(clients, cohort))
    seeds = [64 * (c not in bias) for c in cohort]
    trained = {
      c: linear.train([kernel, bias.get(c, first_bias)], *clients[c], BATCH, RATE) for c in cohort
    }
    is_uniform = weighting == tff.learning.ClientWeighting.UNIFORM
    weights = [1 if is_uniform else len(clients[c][0]) for c in cohort]
    kernel = np.average([trained[c][0] for c in cohort], axis=0, weights=weights)
    bias.update({c: trained[c][1] for c in cohort})
    state = output.state
    memory.update(zip(cohort, output.client_states, strict=True))
    got = process.get_model_weights(state).trainable
    np.testing.assert_allclose(got[0], kernel, atol=1e-6)
    np.testing.assert_array_equal(got[1], model.initial_weights[0][1])
    for c in clients:
      own = process.get_client_model_weights(state, memory[c]).trainable
      np.testing.assert_allclose(own[0], kernel, atol=1e-6)
      np.testing.assert_allclose(own[1], bias.get(c, first_bias), atol=1e-6)
    for report, seed in zip(output.reports, seeds, strict=True):
      assert sum(report['uplink'].values()) == KERNEL
      assert report['downlink']['payload'] == KERNEL
      assert sum(report['downlink'].values()) == KERNEL + seed


@pytest.mark.each_once
@pytest.mark.parametrize('server', [sgd(1.0), sgd(0.5, momentum=0.9), optimizers.build_adam(0.1)])
@pytest.mark.parametrize('codec', [codecs.Identity(), codecs.ErrorFeedback(codecs.TopK(0.3))])
def test_without_personal_weights_it_is_fed_avg_to_the_bit(model, clients, server, codec):
  ours = learning.build_personal_fed_avg(
    model, sgd(RATE), server, personal=[False, False], codec=codec
  )
  plain = learning.build_compressed_fed_avg(model, sgd(RATE), server, codec=codec)
  assert ours.has_client_state == plain.has_client_state
  states = [p.initialize() for p in (ours, plain)]
  memories = [[p.initialize_client()] * 3 for p in (ours, plain)]
  for _ in range(3):
    outputs = [
      p.next(s, m, datasets(clients))
      for p, s, m in zip((ours, plain), states, memories, strict=True)
    ]
    states = [o.state for o in outputs]
    memories = [o.client_states for o in outputs]
    assert outputs[0].reports == outputs[1].reports
    got, wanted = (p.get_model_weights(s) for p, s in zip((ours, plain), states, strict=True))
    for a, b in zip(got.trainable, wanted.trainable, strict=True):
      np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('context', [execution.set_local_context, execution.stock_context])
def test_local_only(model, clients, context):
  with context():
    process = learning.build_local_only(model, sgd(RATE))
    state, memory = process.initialize(), [process.initialize_client()] * 3
    alone = {c: model.initial_weights[0] for c in clients}
    for number in range(2):
      output = process.next(state, memory, datasets(clients))
      state, memory = output.state, output.client_states
      for c, report, one in zip(clients, output.reports, memory, strict=True):
        alone[c] = linear.train(alone[c], *clients[c], BATCH, RATE)
        assert report['accepted']
        assert sum(report['uplink'].values()) == 0
        assert sum(report['downlink'].values()) == (64 if number == 0 else 0)
        own = process.get_client_model_weights(state, one).trainable
        for got, wanted in zip(own, alone[c], strict=True):
          np.testing.assert_allclose(got, wanted, atol=1e-6)
    for got, wanted in zip(
      process.get_model_weights(state).trainable, model.initial_weights[0], strict=True
    ):
      np.testing.assert_array_equal(got, wanted)


def test_look_back_recycles_the_shared_part(model, clients):
  def run(codec):
    process = learning.build_personal_fed_avg(model, sgd(RATE), personal=[False, True], codec=codec)
    state, memory = process.initialize(), [process.initialize_client()] * 3
    for _ in range(3):
      output = process.next(state, memory, datasets(clients))
      state, memory = output.state, output.client_states
    models = [process.get_client_model_weights(state, m).trainable for m in memory]
    return output, models

  plain, off, all_scalars = (
    run(c) for c in (None, codecs.LookBack(threshold=0.0), codecs.LookBack(threshold=1.0))
  )
  for a, b in zip(tf.nest.flatten(plain[1]), tf.nest.flatten(off[1]), strict=True):
    np.testing.assert_array_equal(a, b)
  # One block, the kernel: a flag, and a scalar instead of it.
  assert [sum(r['uplink'].values()) for r in off[0].reports] == [KERNEL + 1] * 3
  assert [sum(r['uplink'].values()) for r in all_scalars[0].reports] == [32 + 1] * 3
  assert list(all_scalars[0].client_states[0]) == ['work', 'aggregator']


def test_personal_weights_survive_a_restart(model, clients):
  def build():
    return learning.build_personal_fed_avg(model, sgd(RATE), personal=[True, False])

  process = build()
  first = process.next(process.initialize(), [process.initialize_client()] * 3, datasets(clients))
  kept = pickle.loads(pickle.dumps([tf.nest.map_structure(np.asarray, m)
                                    for m in first.client_states]))  # fmt: skip
  second = process.next(first.state, first.client_states, datasets(clients))
  again = build().next(first.state, kept, datasets(clients))
  for a, b in zip(
    tf.nest.flatten(second.client_states), tf.nest.flatten(again.client_states), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  kernels = [m['work']['personal'][0] for m in second.client_states]
  assert not np.allclose(kernels[0], kernels[1])


def test_client_that_is_left_out_keeps_its_own(model, clients):
  process = learning.build_personal_fed_avg(model, sgd(RATE), personal=[False, True])
  first = process.next(process.initialize(), [process.initialize_client()] * 3, datasets(clients))
  x, y = clients['b']
  bad = dict(clients, a=(np.full_like(x, np.nan), y), b=(x[:0], y[:0]))
  second = process.next(first.state, first.client_states, datasets(bad))
  assert [bool(r['accepted']) for r in second.reports] == [False, False, True]
  for i in range(2):
    np.testing.assert_array_equal(
      second.client_states[i]['work']['personal'][0], first.client_states[i]['work']['personal'][0]
    )
  wanted = linear.train(
    process.get_client_model_weights(first.state, first.client_states[2]).trainable,
    *clients['c'], BATCH, RATE,
  )  # fmt: skip
  np.testing.assert_allclose(
    process.get_model_weights(second.state).trainable[0], wanted[0], atol=1e-6
  )


def test_weights_can_be_set_and_models_may_have_variables(clients):
  def model_fn():
    return tff.learning.models.from_keras_model(
      linear.keras_model(),
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      collections.OrderedDict(
        x=tf.TensorSpec([None, linear.FEATURES]), y=tf.TensorSpec([None], tf.int32)
      ),
    )

  process = learning.build_personal_fed_avg(model_fn, sgd(RATE), personal=[False, True])
  state, memory = process.initialize(), process.initialize_client()
  # The random start is one and the same for the server and all clients.
  start = process.get_model_weights(state)
  for a, b in zip(
    start.trainable, process.get_client_model_weights(state, memory).trainable, strict=True
  ):
    np.testing.assert_array_equal(a, b)
  kernel = np.ones((linear.FEATURES, linear.CLASSES), np.float32)
  changed = tff.learning.models.ModelWeights([kernel, kernel[0]], [])
  state = process.set_model_weights(state, changed)
  output = process.next(state, [memory] * 3, datasets(clients))
  trained = [linear.train([kernel, start.trainable[1]], *clients[c], BATCH, RATE) for c in 'abc']
  wanted = np.average([t[0] for t in trained], axis=0, weights=NUMBERS)
  np.testing.assert_allclose(
    process.get_model_weights(output.state).trainable[0], wanted, atol=1e-6
  )


def test_pfedpara_sends_what_the_paper_says(rng):
  keras_model = models.build_two_fc(family='pfedpara', gamma=0.5)
  model = tff.learning.models.functional_model_from_keras(
    keras_model,
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    collections.OrderedDict(x=tf.TensorSpec([None, 28, 28, 1]), y=tf.TensorSpec([None], tf.int32)),
    metrics_constructor=collections.OrderedDict(
      accuracy=tf.keras.metrics.SparseCategoricalAccuracy
    ),
  )
  process = learning.build_personal_fed_avg(
    model, sgd(0.1), personal=layers.personal_mask(keras_model)
  )
  x = rng.normal(size=(2, 4, 28, 28, 1)).astype(np.float32)
  data = [linear.dataset(part, np.arange(4, dtype=np.int32), 2) for part in x]
  start = process.initialize_client()
  output = process.next(process.initialize(), [start] * 2, data)
  for report, memory in zip(output.reports, output.client_states, strict=True):
    assert report['uplink']['payload'] == report['downlink']['payload'] == 32 * 59_570
    # Biases are global; of each layer x2 and y2 are not, and they have moved.
    assert len(memory['work']['personal']) == 4
    for before, after in zip(start['work']['personal'], memory['work']['personal'], strict=True):
      assert np.any(before != after)


def test_refuses_bad_arguments(model):
  with pytest.raises(ValueError, match='one bool for each of the 2 trainable weights, found 1'):
    learning.build_personal_fed_avg(model, sgd(0.1), personal=[True])
  with pytest.raises(TypeError, match='`codec`'):
    learning.build_personal_fed_avg(model, sgd(0.1), personal=[True] * 2, codec=0.1)
  with pytest.raises(TypeError, match='`model_fn`'):
    learning.build_personal_fed_avg(3, sgd(0.1), personal=[True] * 2)
