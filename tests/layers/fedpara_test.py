"""FedPara's layers: counts, starts, and the personal form; what else they promise is in others."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers


@pytest.mark.parametrize(
  'layer, shape, expected',
  [
    # 2 * 12 * (256 + 128) + 128.
    (layers.FedParaDense(128, rank=12), (256,), 9344),
    # 2 * 3 * (5 + 8 + 3 * 6) + 8, and as a matrix 2 * 3 * (5 * 6 + 8) + 8.
    (layers.FedParaConv2D(8, (2, 3), rank=3), (6, 6, 5), 194),
    (layers.FedParaConv2D(8, (2, 3), rank=3, form='matrix'), (6, 6, 5), 236),
    # At gamma 0.5: 2 * 56 * (784 + 256) + 256; without bias.
    (layers.FedParaDense(256, gamma=0.5), (784,), 116_736),
    (layers.FedParaDense(256, gamma=0.5, use_bias=False), (784,), 116_480),
    # 2 * 2 * (30 + 8).
    (layers.FedParaEmbedding(30, 8, rank=2), (4,), 152),
    # A tenth of 256 * 128 is 3276: rank 4, 2 * 4 * 384 = 3072, + 128.
    (layers.FedParaDense(128, budget=0.1), (256,), 3200),
    # 2 * 2 * (4 + 3 * 5) + 2 * 2 * (5 + 3 * 5) + 2 * 3 * 5, the GRU's two biases.
    (layers.FedParaGRU(5, rank=2), (7, 4), 186),
  ],
)
def test_counts_by_hand(layer, shape, expected):
  layer.build((None, *shape))
  assert layer.count_params() == expected
  assert all(v.trainable for v in layer.variables)


@pytest.mark.parametrize('personal', [False, True])
@pytest.mark.parametrize(
  'make, shape',
  [
    (lambda **k: layers.FedParaDense(256, **k), (784,)),
    (lambda **k: layers.FedParaConv2D(128, 3, **k), (8, 8, 64)),
    (lambda **k: layers.FedParaConv2D(128, 3, form='matrix', **k), (8, 8, 64)),
  ],
)
def test_start_has_hes_deviation(make, shape, personal):
  variances = []
  for seed in range(10):
    tf.keras.utils.set_random_seed(seed)
    layer = make(gamma=0.3, personal=personal)
    layer.build((None, *shape))
    variances.append(np.var(layer.kernel))
  fan_in = np.prod(layer.kernel.shape[:-1])
  assert abs(np.sqrt(np.mean(variances) / (2 / fan_in)) - 1) < 0.05


def test_start_follows_the_seed():
  def weights(seed):
    tf.keras.utils.set_random_seed(seed)
    layer = layers.FedParaDense(4, rank=2)
    layer.build((None, 3))
    return layer.get_weights()

  for one, same, other in zip(weights(1), weights(1), weights(2), strict=True):
    np.testing.assert_array_equal(one, same)
    assert not one.any() or np.abs(one - other).max() > 0


def test_personal_without_its_term_is_the_global_one(rng):
  """W2 = 0 reduces W1 * (W2 + 1) to W1, the low-rank layer."""
  x = rng.normal(size=(3, 6)).astype(np.float32)
  layer, low_rank = layers.FedParaDense(4, rank=2, personal=True), layers.LowRankDense(4, rank=2)
  layer(x), low_rank(x)
  x1, y1, x2, y2, bias = layer.get_weights()
  layer.set_weights([x1, y1, np.zeros_like(x2), y2, bias])
  low_rank.set_weights([x1, y1, bias])
  np.testing.assert_allclose(layer(x), low_rank(x), rtol=1e-6)
  # One zero factor is no dead end.
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(x) ** 2)
  assert np.abs(tape.gradient(loss, layer.trainable_variables)[2]).max() > 0


@pytest.mark.parametrize('name', ['Dense', 'Conv2D', 'Embedding', 'LSTM', 'GRU'])
def test_personal_weights_are_named_so(name):
  arguments = dict(Dense=(4,), Conv2D=(4, 3), Embedding=(9, 4), LSTM=(4,), GRU=(4,))[name]
  shape = dict(Dense=(6,), Conv2D=(5, 5, 3), Embedding=(7,)).get(name, (7, 3))
  layer = getattr(layers, f'FedPara{name}')(*arguments, rank=2, personal=True)
  layer.build((None, *shape))
  names = [v.name.rpartition('/')[2] for v in layer.trainable_variables]
  personal = [n for n in names if layers.is_personal(n)]
  kernels = len(layer.factored_kernels)
  assert len(personal) == kernels * (3 if name == 'Conv2D' else 2)
  assert all(n.partition('personal_')[2][1] == '2' for n in personal)
  assert len(set(names)) == len(names)


def test_signals_at_the_start_are_of_the_dense_nets_size(rng):
  """Eight layers with ReLU: outputs and gradients of shared weights within a decade."""
  x = rng.normal(size=(16, 12, 12, 3)).astype(np.float32)

  def measure(convolution):
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential([tf.keras.layers.InputLayer(x.shape[1:])])
    for _ in range(8):
      model.add(convolution(48))
    with tf.GradientTape() as tape:
      y = model(x)
      loss = tf.reduce_mean(y**2)
    biases = [layer.bias for layer in model.layers]
    return np.array([np.std(y), *(np.linalg.norm(g) for g in tape.gradient(loss, biases))])

  common = dict(kernel_size=3, padding='same', activation='relu')
  dense = measure(lambda n: tf.keras.layers.Conv2D(n, kernel_initializer='he_normal', **common))
  for arguments in (dict(), dict(personal=True), dict(form='matrix'), dict(tanh=True)):
    make = functools.partial(layers.FedParaConv2D, gamma=0.1, **arguments, **common)
    ratio = measure(make) / dense
    assert 0.1 < ratio.min() and ratio.max() < 10, (arguments, ratio)
  notebook = measure(
    lambda n: layers.FedParaConv2D(n, gamma=0.1, initialization='he_fan_in', **common)
  )
  assert (notebook / dense).max() < 1e-4  # Why it does not train.


def test_refuses_bad_arguments():
  with pytest.raises(TypeError, match='`personal` must be `bool`'):
    layers.FedParaDense(4, rank=2, personal='yes')
  with pytest.raises(ValueError, match='`rank` must be at least 1'):
    layers.FedParaDense(4, rank=0)
  with pytest.raises(ValueError, match='`initialization` must be one of'):
    layers.FedParaLSTM(4, rank=2, initialization='glorot')
