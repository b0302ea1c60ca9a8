"""Ragged and sparse inputs: taken wherever the plain layer takes them, with equal outputs."""

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import cases
from tff_lowrank import layers

L = tf.keras.layers
WORDS = tf.ragged.constant([[1, 2, 0], [3], [], [10, 4]], dtype=tf.int64)
COUNTS = tf.sparse.from_dense([[0.0, 2, 0, -1], [0, 0, 0, 0], [1, 0, 3, 0]])
IDS = tf.sparse.from_dense([[0, 3, 0], [0, 0, 0], [10, 0, 4]])


def ragged(*row_lengths, inner=(6,)):
  """Normal values of ragged rank 1, or 2 for a list of lists of row lengths."""
  lengths = np.ravel(row_lengths[-1])
  values = np.random.default_rng(0).normal(size=(sum(lengths), *inner)).astype(np.float32)
  return tf.RaggedTensor.from_nested_row_lengths(values, row_lengths)


# A layer's class, arguments and input.
INPUTS = {
  'Dense ragged': ('Dense', dict(units=4, activation='softmax'), ragged([2, 0, 3])),
  'Dense twice ragged': ('Dense', dict(units=4), ragged([2, 1], [2, 0, 3])),
  'Dense ragged with an inner axis': ('Dense', dict(units=4), ragged([2, 1], inner=(3, 6))),
  'Dense of uniform rows': (
    'Dense',
    dict(units=4),
    tf.RaggedTensor.from_row_lengths(
      tf.RaggedTensor.from_uniform_row_length(tf.range(18.0), 6), [2, 1]
    ),
  ),
  'Dense sparse': ('Dense', dict(units=3, use_bias=False, activation='relu'), COUNTS),
  'Dense of integers': ('Dense', dict(units=3), tf.constant([[1, 2], [3, 4]])),
  'Embedding ragged': ('Embedding', dict(input_dim=11, output_dim=6), WORDS),
  'Embedding ragged, of floats': (
    'Embedding',
    dict(input_dim=11, output_dim=6),
    tf.cast(WORDS, tf.float32),
  ),
  'Embedding of sparse to dense': ('Embedding', dict(input_dim=11, output_dim=6), IDS),
  'Embedding of sparse to sparse': (
    'Embedding',
    dict(input_dim=11, output_dim=6, sparse=True),
    IDS,
  ),
  'Embedding of dense to sparse': (
    'Embedding',
    dict(input_dim=11, output_dim=6, sparse=True),
    tf.constant([[0, 3]]),
  ),
  'LSTM': ('LSTM', dict(units=5), ragged([4, 1, 2])),
  'LSTM of sequences': ('LSTM', dict(units=5, return_sequences=True), ragged([4, 1, 2])),
  'GRU backwards': ('GRU', dict(units=5, go_backwards=True), ragged([4, 1, 2])),
  'GRU of sequences': ('GRU', dict(units=5, return_sequences=True), ragged([4, 1, 2])),
}


def dense(x):
  if isinstance(x, tf.RaggedTensor):
    return x.to_tensor(default_value=-99)
  return tf.sparse.to_dense(x, default_value=-99) if isinstance(x, tf.SparseTensor) else x


def pair_of(kind, case, rng, **options):
  """A factorised layer and the plain one of the same kernels, and their input."""
  plain, arguments, x = INPUTS[case]
  options = cases.KINDS[kind] | options
  layer = getattr(layers, kind.split()[0] + plain)(**arguments, **options)
  twin = getattr(L, plain)(**arguments)
  layer(x), twin(x)
  cases.randomize(layer, rng)
  owner = getattr(layer, 'cell', layer)
  weights = [kernel.compose() for kernel in layer.factored_kernels.values()]
  bias = getattr(owner, 'bias', None)
  twin.set_weights(weights if bias is None else [*weights, bias])
  return layer, twin, x


@pytest.mark.each_once
@pytest.mark.parametrize('case', INPUTS)
@pytest.mark.parametrize('recompute', [False, True])
@pytest.mark.parametrize('kind', ['FedPara personal', 'LowRank', 'Adapter'])
def test_outputs_are_the_plain_layers(kind, recompute, case, rng):
  layer, twin, x = pair_of(kind, case, rng, recompute=recompute)
  expected = twin(x)
  # Keras 2.14's own sparse embedding of sparse inputs cannot be called in a graph.
  only_eager = case == 'Embedding of sparse to sparse'
  for run in (layer, layer if only_eager else tf.function(layer)):
    outputs = run(x)
    assert type(outputs) is type(expected) and outputs.dtype == expected.dtype
    assert dense(outputs).shape == dense(expected).shape
    np.testing.assert_allclose(dense(outputs), dense(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('case', INPUTS)
def test_recomputed_gradients(case, rng):
  """Of inputs too, for which each of the two is the other's check, and the plain layer both's."""
  layer, twin, x = pair_of('FedPara', case, rng)
  again = pair_of('FedPara', case, rng, recompute=True)[0]
  again.set_weights(layer.get_weights())
  values = x if isinstance(x, tf.Tensor) else getattr(x, 'flat_values', None)
  values = x.values if values is None else values
  watched = [values] if values.dtype.is_floating and not case.startswith('Embedding') else []

  def gradients(layer):
    with tf.GradientTape() as tape:
      tape.watch(watched)
      loss = tf.reduce_sum(tf.sin(values_of(layer(x))))
    found = tape.gradient(loss, [*layer.trainable_variables, *watched])
    return [tf.convert_to_tensor(g) for g in found]

  one, other = gradients(layer), gradients(again)
  for a, b in zip(one, other, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  if watched:
    np.testing.assert_allclose(one[-1], gradients(twin)[-1], rtol=1e-3, atol=1e-4)


def values_of(x):
  if isinstance(x, tf.RaggedTensor):
    return x.flat_values
  return x.values if isinstance(x, tf.SparseTensor) else x


@pytest.mark.parametrize('wrapper', [L.TimeDistributed, L.Bidirectional])
def test_wrapped(wrapper, rng):
  x = ragged([3, 1, 2])
  inner = L.Dense(4) if wrapper is L.TimeDistributed else L.LSTM(4, return_sequences=True)
  model = tf.keras.Sequential([tf.keras.Input((None, 6), ragged=True), wrapper(inner)])
  twin = layers.to_low_rank(model, budget=1.0).model
  expected = layers.compose(twin)(x)
  assert isinstance(expected, tf.RaggedTensor)
  np.testing.assert_allclose(dense(twin(x)), dense(expected), rtol=1e-4, atol=1e-5)


def test_a_text_model_of_ragged_batches():
  words = tf.keras.Input([None], ragged=True, dtype=tf.int64)
  x = L.Embedding(500, 64)(words)
  x = L.Dense(32, activation='relu')(x)
  model = tf.keras.Model(words, L.Dense(3)(L.LSTM(64)(x)))
  for twin in (
    layers.to_fedpara(model, gamma=0.1).model,
    layers.to_adapters(model, 2).model,
  ):
    twin.compile(tf.keras.optimizers.Adam(0.01), 'mse')
    losses = twin.fit(WORDS[:2], tf.ones([2, 3]), epochs=20, verbose=0).history['loss']
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(layers.compose(twin)(WORDS), twin(WORDS), rtol=1e-3, atol=1e-4)


def test_a_model_of_sparse_counts():
  counts = tf.keras.Input([200], sparse=True)
  model = tf.keras.Model(counts, L.Dense(3)(L.Dense(64, activation='relu')(counts)))
  x = tf.sparse.from_dense(tf.eye(5, 200))
  for twin in (layers.to_fedpara(model, gamma=0.1).model, layers.to_adapters(model, 2).model):
    np.testing.assert_allclose(layers.compose(twin)(x), twin(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(twin(x), twin(tf.sparse.to_dense(x)), rtol=1e-4, atol=1e-5)


def test_what_the_plain_layer_refuses_is_refused_in_its_words():
  rows = tf.ragged.constant([[1.0, 2.0], [3.0]])
  with pytest.raises(ValueError, match='last size of the input must be known'):
    layers.FedParaDense(4, rank=1)(rows)
  layer = layers.FedParaDense(4, rank=1)
  layer.build((None, 2))
  for make in (lambda: layer(rows), lambda: L.Dense(4)(rows)):
    with pytest.raises(ValueError, match='last dimension|innermost|incompatible'):
      make()
