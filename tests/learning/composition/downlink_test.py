import collections

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import codecs
from tff_lowrank import learning

sgd = tff.learning.optimizers.build_sgdm
NUMBERS = (linear.FEATURES + 1) * linear.CLASSES


def build(rng, **settings):
  model = linear.build_model(rng)
  process = learning.build_compressed_fed_avg(
    model, sgd(0.1), sgd(1.0), codec=codecs.Identity(), **settings
  )
  return model, process


def top(x, k):
  """The k largest magnitudes of a tensor, from the definition."""
  flat = np.ravel(x)
  kept = np.zeros_like(flat)
  order = np.argsort(-np.abs(flat), kind='stable')[:k]
  kept[order] = flat[order]
  return kept.reshape(x.shape)


def test_clients_train_from_the_version_they_have(rng):
  model, process = build(rng, downlink=codecs.TopK(2))
  clients = [linear.examples(rng, n) for n in (4, 8)]
  data = [linear.dataset(x, y, 4) for x, y in clients]
  state, memory = process.initialize(), [process.initialize_client()] * 2
  weights = [np.float64(w) for w in model.initial_weights[0]]
  version = [w.copy() for w in weights]
  for _ in range(4):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
    version = [v + top(w - v, 2) for v, w in zip(version, weights, strict=True)]
    trained = [linear.train(version, x, y, 4, 0.1) for x, y in clients]
    weights = [
      w - (4 * (v - a) + 8 * (v - b)) / 12
      for w, v, a, b in zip(weights, version, *trained, strict=True)
    ]
    for got, expected in zip(state.distributor['version'], version, strict=True):
      np.testing.assert_allclose(got, expected, atol=1e-5)
    for got, expected in zip(process.get_model_weights(state).trainable, weights, strict=True):
      np.testing.assert_allclose(got, expected, atol=1e-5)


def test_prices_for_present_away_and_new_clients(rng):
  _, process = build(rng, downlink=codecs.QSGD(1, stochastic=False))
  datasets = [linear.dataset(*linear.examples(rng, 4), 4) for _ in range(3)]
  # Two tensors, of 18 and 3 numbers: 32-bit norms, and five numbers a byte.
  message, dense = 2 * 32 + 8 * (4 + 1), 32 * NUMBERS
  state, store = process.initialize(), collections.defaultdict(process.initialize_client)
  rounds = [(0, 1), (0,), (0, 1), (2, 0), (0,), (0,), (0,), (0,), (0,), (0, 1)]
  found = []
  for clients in rounds:
    output = process.next(state, [store[c] for c in clients], [datasets[c] for c in clients])
    state = output.state
    store.update(zip(clients, output.client_states, strict=True))
    found.append([
      (int(r['downlink']['payload'] + r['downlink']['scalar']), int(r['downlink']['catch_up']))
      for r in output.reports
    ])  # fmt: skip
  assert found[0] == [(0, dense)] * 2  # New: the whole version.
  assert found[1] == [(message, 0)]
  assert found[2] == [(message, 0), (message, message)]  # Client 1 missed one message.
  assert found[3] == [(0, dense), (message, 0)]
  assert 8 * message > dense
  assert found[9] == [(message, 0), (0, dense)]  # Seven missed: the version is shorter.


def test_new_clients_with_the_seed_of_the_initial_weights(rng):
  model, process = build(rng, downlink='qsgd(1, stochastic=False)', initial_from_seed=True)
  codec = codecs.parse('qsgd(1, stochastic=False)')
  data = [linear.dataset(*linear.examples(rng, 4), 4)]
  message, dense = 2 * 32 + 8 * (4 + 1), 32 * NUMBERS
  state, old = process.initialize(), process.initialize_client()
  # What a client that draws the initial weights decodes from the packed messages.
  version, caught_up = [np.copy(w) for w in model.initial_weights[0]], []
  for number in range(8):
    weights = process.get_model_weights(state).trainable
    difference = [a - b for a, b in zip(weights, version, strict=True)]
    sent = codec.encode((), [tf.constant(d) for d in difference], tf.constant([0, 0])).message
    received = codec.unpack(codec.pack(sent), [tf.TensorSpec.from_tensor(tf.constant(d))
                                               for d in difference])  # fmt: skip
    version = [v + d.numpy() for v, d in zip(version, codec.decode((), received), strict=True)]
    new = process.next(state, [process.initialize_client()], data).reports[0]['downlink']
    caught_up.append((int(new['payload'] + new['scalar']), int(new['catch_up'])))
    output = process.next(state, [old], data)
    state, [old] = output.state, output.client_states
    for a, b in zip(state.distributor['version'], version, strict=True):
      np.testing.assert_array_equal(a, b)
    assert int(output.reports[0]['downlink']['catch_up']) == (64 if number == 0 else 0)
  assert caught_up == [
    (message, 64 + n * message) if 64 + (n + 1) * message < dense else (0, dense) for n in range(8)
  ]
  assert caught_up[0][1] == 64 and caught_up[-1] == (0, dense)
  with pytest.raises(ValueError, match='`initial_from_seed` needs a `downlink` codec'):
    build(rng, initial_from_seed=True)


def test_identity_is_the_model_itself_to_the_bit(rng):
  seed = np.random.default_rng(3)
  model = linear.build_model(seed)
  data = [linear.dataset(*linear.examples(rng, 4), 4)]
  results = []
  for settings in ({}, dict(downlink=codecs.Identity())):
    process = learning.build_fed_avg(model, sgd(0.1), **settings)
    assert not process.has_client_state
    output = process.next(process.initialize(), [()], data)
    results.append(process.get_model_weights(output.state).trainable)
  for a, b in zip(*results, strict=True):
    np.testing.assert_array_equal(a, b)


def test_with_look_back_on_the_way_up(rng):
  model = linear.build_model(rng)
  process = learning.build_lbgm_fed_avg(
    model, sgd(0.1), threshold=0.9, downlink=codecs.Float16(), seed=2
  )
  data = [linear.dataset(*linear.examples(rng, 8), 4)]
  state, memory = process.initialize(), [process.initialize_client()]
  for _ in range(3):
    output = process.next(state, memory, data)
    state, memory = output.state, output.client_states
  assert int(output.reports[0]['downlink']['payload']) == 16 * NUMBERS
  assert int(output.reports[0]['uplink']['scalar']) > 0


@pytest.mark.parametrize(
  'text, message',
  [
    ('look_back', 'clients that missed rounds lack'),
    ('error_feedback(top_k)', 'clients that missed rounds lack'),
    ('gaia(accumulate=False)', 'filters client updates'),
    ('cmfl', 'filters client updates'),
    ('qsgd', 'could grow without bound'),
    ('sign_sgd', 'could grow without bound'),
  ],
)
def test_refuses_what_cannot_go_down(rng, text, message):
  with pytest.raises(ValueError, match=f'cannot be used for the downlink.*{message}'):
    build(rng, downlink=codecs.parse(text))


def test_what_is_left_out_comes_later(rng):
  # Without further updates the version converges to the model.
  _, process = build(rng, downlink=codecs.TopK(0.3))
  state = process.initialize()
  moved = tff.learning.models.ModelWeights(
    tuple(w + 1 for w in process.get_model_weights(state).trainable), ()
  )
  state = process.set_model_weights(state, moved)
  nothing = tf.data.Dataset.from_tensor_slices(
    collections.OrderedDict(x=np.zeros((0, linear.FEATURES), 'f'), y=np.zeros(0, 'i4'))
  ).batch(4)
  for _ in range(4):
    state = process.next(state, [process.initialize_client()], [nothing]).state
  for a, b in zip(state.distributor['version'], moved.trainable, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6)
