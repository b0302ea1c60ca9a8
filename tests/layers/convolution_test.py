"""Factorised convolutions of any number of axes and groups: kernels from the definition, counts."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import cases
from tff_lowrank import layers
from tff_lowrank.layers import ranks

CONVOLUTIONS = [plain for plain in cases.PLAIN if 'Conv' in plain]
# Depthwise kernels, and separable convolutions', are always matrices.
OPTIONS = [(plain, {}) for plain in CONVOLUTIONS] + [
  (plain, dict(form='matrix')) for plain in CONVOLUTIONS if plain.startswith('Conv')
]


def low_rank_entry(factors, term, window, i, o):
  """W[*window, i, o] of one term, summed entry by entry; i counts through the window if no t."""
  x, y = factors[f'x{term}'], factors[f'y{term}']
  if f't{term}' not in factors:
    return sum(x[o, r] * y[i, r] for r in range(x.shape[1]))
  t = factors[f't{term}'][(slice(None), slice(None), *window)]
  pairs = itertools.product(range(len(t)), repeat=2)
  return sum(t[a, b] * x[o, a] * y[i, b] for a, b in pairs)


def fedpara_kernel(layer, name):
  """The kernel W1 * W2 from its factors, by the indices of a convolution."""
  kernel = layer.factored_kernels[name]
  factors = {factor: v.numpy() for factor, v in kernel.factors.items()}
  result = np.zeros(kernel.shape)
  for index in np.ndindex(*kernel.shape):
    *window, i, o = index
    if name == 'depthwise_kernel':  # Rows are places in the window, columns all outputs.
      i, o = np.ravel_multi_index(window, kernel.shape[:-2]), i * layer.depth_multiplier + o
    elif layer.form == 'matrix':
      i = np.ravel_multi_index((*window, i), kernel.shape[:-1])
    one, two = (low_rank_entry(factors, term, window, i, o) for term in '12')
    result[index] = one * two
  return result


@pytest.mark.parametrize('plain, options', OPTIONS)
def test_kernels_from_their_factors(plain, options, rng):
  layer, shape = cases.make('FedPara', plain, dtype='float64', **options)
  layer.build((None, *shape))
  cases.randomize(layer, rng)
  twin = cases.make_plain(plain, dtype='float64')
  twin.build((None, *shape))
  for name in layer.factored_kernels:
    composed = getattr(layer, name)
    assert composed.shape == getattr(twin, name).shape
    np.testing.assert_allclose(composed, fedpara_kernel(layer, name), rtol=1e-12)


@pytest.mark.parametrize('plain', CONVOLUTIONS)
@pytest.mark.parametrize('recompute', [False, True])
def test_gradients_by_finite_differences(plain, recompute, rng):
  layer, shape = cases.make('FedPara', plain, dtype='float64', recompute=recompute)
  x = tf.constant(cases.inputs(shape, rng, dtype=np.float64))
  layer(x)

  def loss_of(x):
    return tf.reduce_sum(tf.sin(layer(x)))

  with tf.GradientTape() as tape:
    tape.watch(x)
    loss = loss_of(x)
  of_input, *gradients = tape.gradient(loss, [x, *layer.trainable_variables])
  direction = rng.normal(size=x.shape)
  slope = (loss_of(x + 1e-6 * direction) - loss_of(x - 1e-6 * direction)) / 2e-6
  np.testing.assert_allclose(np.sum(of_input * direction), slope, rtol=1e-6, atol=1e-8)
  for variable, gradient in zip(layer.trainable_variables, gradients, strict=True):
    start, direction = variable.numpy(), rng.normal(size=variable.shape)
    values = []
    for sign in (1, -1):
      variable.assign(start + sign * 1e-6 * direction)
      values.append(float(loss_of(x)))
    variable.assign(start)
    slope = (values[0] - values[1]) / 2e-6
    np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=1e-6, atol=1e-8)


def test_a_grouped_convolution_is_its_groups_side_by_side(rng):
  layer = layers.FedParaConv2D(6, 3, groups=2, rank=2, use_bias=False)
  x = rng.normal(size=(2, 7, 7, 8)).astype(np.float32)
  outputs = layer(x)
  for group in range(2):
    kernel = layer.kernel[..., 3 * group : 3 * group + 3]
    expected = tf.nn.conv2d(x[..., 4 * group : 4 * group + 4], kernel, 1, 'VALID')
    np.testing.assert_allclose(
      outputs[..., 3 * group : 3 * group + 3], expected, rtol=1e-4, atol=1e-5
    )


def test_no_groups_rank_is_restricted_at_gamma_zero(rng):
  """Three groups of 9 inputs and 12 outputs: R = 3 is the least, and gives rank 9 to each."""
  layer = layers.FedParaConv1D(36, 2, groups=3, gamma=0.0, dtype='float64')
  layer.build((None, 8, 27))
  cases.randomize(layer, rng)
  assert layer.factored_kernels['kernel'].factorization.rank == 3
  for group in range(3):
    kernel = layer.kernel.numpy()[..., 12 * group : 12 * group + 12]
    assert np.linalg.matrix_rank(kernel.transpose(1, 0, 2).reshape(9, -1)) == 9
    assert np.linalg.matrix_rank(kernel.reshape(-1, 12)) == 9


def test_no_depthwise_rank_is_restricted_at_gamma_zero(rng):
  layer = layers.FedParaDepthwiseConv2D(3, gamma=0.0, dtype='float64')
  layer.build((None, 8, 8, 30))
  cases.randomize(layer, rng)
  assert layer.factored_kernels['depthwise_kernel'].factorization.rank == 3
  assert np.linalg.matrix_rank(layer.depthwise_kernel.numpy().reshape(9, 30)) == 9


@pytest.mark.parametrize(
  'layer, shape, expected',
  [
    # 2 * 3 * (8 + 5 + 3 * 4) + 8, and as a matrix 2 * 3 * (5 * 4 + 8) + 8.
    (layers.FedParaConv1D(8, 4, rank=3), (9, 5), 158),
    (layers.FedParaConv1D(8, 4, rank=3, form='matrix'), (9, 5), 176),
    # 2 * 2 * (6 + 5 + 2 * 12) + 6; one term alone.
    (layers.FedParaConv3D(6, (2, 3, 2), rank=2), (4, 4, 4, 5), 146),
    (layers.LowRankConv3D(6, (2, 3, 2), rank=2), (4, 4, 4, 5), 76),
    # Two groups of 4 inputs to 12 outputs in all: 2 * 2 * (12 + 4 + 2 * 9) + 12.
    (layers.FedParaConv2D(12, 3, groups=2, rank=2), (6, 6, 8), 148),
    # 40 channels, 2 of each: 2 * 3 * (9 + 80) + 80.
    (layers.FedParaDepthwiseConv2D(3, depth_multiplier=2, rank=3), (6, 6, 40), 614),
    # Window 3, 7 channels: 2 * 2 * (3 + 7) + 7.
    (layers.FedParaDepthwiseConv1D(3, rank=2), (6, 7), 47),
    # 2 * 2 * (9 + 40) for the window; 2 * 2 * (40 + 32) for the mixing; 32.
    (layers.FedParaSeparableConv2D(32, 3, rank=2), (6, 6, 40), 516),
    # The adapter's 2 * (2 * 2) * (3 + 7) / 2 + 2 * 2 * (7 + 5), on 3 * 7 + 7 * 5 + 5 frozen.
    (layers.AdapterSeparableConv1D(5, 3, rank=2), (6, 7), 40 + 48 + 61),
  ],
)
def test_counts_by_hand(layer, shape, expected):
  layer.build((None, *shape))
  assert layer.count_params() == expected


def test_views_of_kernels():
  assert ranks.kernel_view('kernel', (3, 3, 4, 12)) == (3, 3, 4, 12)
  assert ranks.kernel_view('depthwise_kernel', (3, 5, 4, 2)) == (3, 5, 1, 8)


def deviation(make, shape):
  """Root of the mean variance of the outputs for inputs of variance 1."""
  variances = []
  for seed in range(20):
    tf.keras.utils.set_random_seed(seed)
    layer = make()
    variances.append(np.var(layer(np.random.default_rng(seed).normal(size=(4, *shape)))))
  return np.sqrt(np.mean(variances))


@pytest.mark.parametrize(
  'make, shape, expected',
  [
    # He's deviation, sqrt(2); a separable convolution's halves have 1 and sqrt(2).
    (lambda: layers.FedParaDepthwiseConv2D(3, rank=3), (9, 9, 40), np.sqrt(2)),
    (lambda: layers.FedParaConv1D(60, 3, groups=3, rank=4), (9, 60), np.sqrt(2)),
    (lambda: layers.FedParaSeparableConv2D(60, 3, rank=6), (9, 9, 60), np.sqrt(2)),
  ],
)
def test_start_keeps_the_size_of_signals(make, shape, expected):
  assert abs(deviation(make, shape) / expected - 1) < 0.1


@pytest.mark.parametrize('data_format', ['channels_last', 'channels_first'])
@pytest.mark.parametrize('plain', ['Conv1D', 'SeparableConv2D', 'DepthwiseConv2D'])
def test_layouts_are_the_plain_layers(plain, data_format):
  """Of what is only laid out, not computed: the CPU has no channels-first convolutions."""
  arguments = dict(data_format=data_format) | (dict(padding='same') if plain == 'Conv1D' else {})
  layer, shape = cases.make('FedPara', plain, **arguments)
  twin = cases.make_plain(plain, **arguments)
  shape = (None, *shape)
  layer.build(shape), twin.build(shape)
  assert layer.compute_output_shape(shape) == twin.compute_output_shape(shape)
  assert {n: getattr(layer, n).shape for n in layer.factored_kernels} == {
    n: getattr(twin, n).shape for n in layer.factored_kernels
  }
  assert layer.bias.shape == twin.bias.shape
