"""LSTM and GRU with factorised kernels against keras.layers.LSTM and GRU with the composed ones."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.layers import fedpara

PAIRS = [(layers.FedParaLSTM, tf.keras.layers.LSTM), (layers.FedParaGRU, tf.keras.layers.GRU)]


def pair_of(factored, plain, arguments, x, rng, **kwargs):
  """A factorised layer with random weights, and the plain one with its kernels."""
  layer = factored(5, rank=2, **arguments)
  layer(x, **kwargs)
  layer.set_weights([0.5 * rng.normal(size=w.shape) for w in layer.get_weights()])
  twin = plain(5, **arguments)
  twin(x, **kwargs)
  weights = [layer.cell.kernel, layer.cell.recurrent_kernel]
  if layer.cell.bias is not None:
    weights.append(layer.cell.bias)
  twin.set_weights([w.numpy() for w in weights])
  return layer, twin


@pytest.mark.each_once
@pytest.mark.parametrize('factored, plain', PAIRS)
@pytest.mark.parametrize(
  'arguments',
  [
    dict(),
    dict(return_sequences=True),
    dict(return_sequences=True, return_state=True),
    dict(go_backwards=True, use_bias=False),
    dict(unroll=True, return_sequences=True),
    dict(time_major=True, return_sequences=True),
    dict(return_sequences=True, zero_output_for_mask=True),
    dict(activation='relu', recurrent_activation='hard_sigmoid'),
    dict(implementation=1),
  ],
  ids=str,
)
@pytest.mark.parametrize('masked', [False, True])
def test_equals_keras(factored, plain, arguments, masked, rng):
  x = rng.normal(size=(3, 7, 4)).astype(np.float32)
  mask = None
  if masked:
    # To the right, in the middle, everywhere.
    mask = np.array([[1] * 5 + [0] * 2, [1, 0] * 3 + [1], [0] * 7], bool)
  if arguments.get('time_major'):
    x = x.transpose(1, 0, 2)
    mask = None if mask is None else mask.T
  layer, twin = pair_of(factored, plain, arguments, x, rng)
  outputs, expected = layer(x, mask=mask), twin(x, mask=mask)
  tf.nest.map_structure(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), outputs, expected
  )


@pytest.mark.parametrize('reset_after', [False, True])
def test_both_forms_of_gru(reset_after, rng):
  x = rng.normal(size=(3, 7, 4)).astype(np.float32)
  arguments = dict(reset_after=reset_after)
  layer, twin = pair_of(*PAIRS[1], arguments, x, rng)
  assert layer.cell.bias.shape == ([2, 15] if reset_after else [15])
  np.testing.assert_allclose(layer(x), twin(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('factored, plain', PAIRS)
def test_initial_states_and_bidirectional(factored, plain, rng):
  x = rng.normal(size=(3, 7, 4)).astype(np.float32)
  states = [
    tf.constant(rng.normal(size=(3, 5)), tf.float32) for _ in range(1 + (plain is PAIRS[0][1]))
  ]
  layer, twin = pair_of(factored, plain, {}, x, rng, initial_state=states)
  np.testing.assert_allclose(
    layer(x, initial_state=states), twin(x, initial_state=states), rtol=1e-4, atol=1e-5
  )
  both = tf.keras.layers.Bidirectional(factored(5, rank=2, return_sequences=True))
  assert both(x).shape == (3, 7, 10)
  assert len(both.trainable_variables) == 2 * 9


@pytest.mark.parametrize('factored, plain', PAIRS)
def test_saved_with_initial_states(factored, plain, rng, tmp_path):
  del plain
  first, second = (tf.keras.Input((n, 4)) for n in (5, 7))
  _, *states = factored(5, rank=2, return_state=True)(first)
  outputs = factored(5, rank=2, activity_regularizer='l2')(second, initial_state=states)
  model = tf.keras.Model([first, second], outputs)
  x = [rng.normal(size=(3, n, 4)).astype(np.float32) for n in (5, 7)]
  model.save(tmp_path / 'model.keras')
  loaded = tf.keras.models.load_model(tmp_path / 'model.keras')
  np.testing.assert_array_equal(loaded(x), model(x))
  assert len(loaded.losses) == len(model.losses) == 1


@pytest.mark.parametrize('factored, plain', PAIRS)
def test_stateful_and_cells_alone(factored, plain, rng):
  x = rng.normal(size=(3, 6, 4)).astype(np.float32)
  layer, twin = pair_of(factored, plain, dict(stateful=True), x, rng)
  layer.reset_states()
  twin.reset_states()
  for part in (x[:, :2], x[:, 2:]):
    outputs, expected = layer(part), twin(part)
  np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
  # Two cells, stacked, composed at each step.
  cell_class = fedpara.FedParaLSTMCell if plain is PAIRS[0][1] else fedpara.FedParaGRUCell
  stacked = tf.keras.layers.RNN([cell_class(5, rank=2), cell_class(3, rank=1)])
  assert stacked(x).shape == (3, 3)
  alone = tf.keras.layers.RNN(layer.cell)
  layer.reset_states()
  np.testing.assert_allclose(layer(x), alone(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('factored, plain', PAIRS)
def test_gradients_equal_those_through_the_plain_layer(factored, plain, rng):
  """The chain rule by hand: the plain kernel's gradient, passed through the composition."""
  x = rng.normal(size=(3, 7, 4)).astype(np.float32)
  layer, twin = pair_of(factored, plain, dict(return_sequences=True), x, rng)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(x) ** 2)
  factors = layer.factored_kernels['recurrent_kernel'].factors
  gradients = tape.gradient(loss, factors)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(twin(x) ** 2)
  j = tape.gradient(loss, twin.cell.recurrent_kernel).numpy()
  f = {name: v.numpy() for name, v in factors.items()}
  w1, w2 = f['y1'] @ f['x1'].T, f['y2'] @ f['x2'].T
  np.testing.assert_allclose(gradients['y1'], (j * w2) @ f['x1'], rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(gradients['x1'], (j * w2).T @ f['y1'], rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(gradients['y2'], (j * w1) @ f['x2'], rtol=1e-3, atol=1e-4)
  np.testing.assert_allclose(gradients['x2'], (j * w1).T @ f['y2'], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('factored, plain', PAIRS)
def test_kernels_are_composed_once_a_sequence(factored, plain):
  layer = factored(5, rank=2)
  graph = tf.function(layer).get_concrete_function(tf.TensorSpec([2, 7, 4])).graph
  inside = [f for f in graph.as_graph_def().library.function if 'while_body' in f.signature.name]
  assert inside
  # In the loop: the products with both kernels, none of the four terms. Outside: the terms, and a
  # first step from which Keras takes the shapes.
  assert sum(node.op == 'MatMul' for f in inside for node in f.node_def) == 2
  assert sum(node.op == 'MatMul' for node in graph.as_graph_def().node) == 4 + 2


def test_dropout_is_applied_in_training_only(rng):
  x = rng.normal(size=(3, 7, 4)).astype(np.float32)
  layer = layers.FedParaLSTM(5, rank=2, dropout=0.5, recurrent_dropout=0.5)
  np.testing.assert_array_equal(layer(x), layer(x))
  assert np.abs(layer(x, training=True) - layer(x, training=True)).max() > 0


def test_counts_and_the_bias_by_hand():
  # 2 * 3 * (8 + 4 * 16) and 2 * 4 * (16 + 4 * 16) factors at r_min, 4 * 16 biases.
  layer = layers.FedParaLSTM(16, gamma=0.0)
  layer(np.zeros((1, 2, 8), np.float32))
  assert layer.count_params() == 432 + 640 + 64
  np.testing.assert_array_equal(layer.cell.bias, [0] * 16 + [1] * 16 + [0] * 32)
  plain = layers.FedParaLSTM(16, gamma=0.0, unit_forget_bias=False)
  plain(np.zeros((1, 2, 8), np.float32))
  np.testing.assert_array_equal(plain.cell.bias, np.zeros(64))
  # The low-rank twin: twice the rank, half the terms.
  twin = layers.LowRankLSTM(16, gamma=0.0)
  twin(np.zeros((1, 2, 8), np.float32))
  assert twin.count_params() == layer.count_params()


def test_recurrent_start_has_the_deviation_of_keras(rng):
  tf.keras.utils.set_random_seed(0)
  layer, plain = layers.FedParaLSTM(128, gamma=0.5), tf.keras.layers.LSTM(128)
  x = np.zeros((1, 2, 64), np.float32)
  layer(x), plain(x)
  for name in ('kernel', 'recurrent_kernel'):
    ratio = np.std(getattr(layer.cell, name)) / np.std(getattr(plain.cell, name))
    assert 0.9 < ratio < 1.1, name
