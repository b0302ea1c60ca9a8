"""Adapters: nothing but factors trains, and frozen layers are otherwise what they wrap."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.layers import adapters


def test_only_factors_train(rng):
  layer = layers.AdapterConv2D(8, 3, rank=2, scale=2.0)
  x = rng.normal(size=(2, 5, 5, 4)).astype(np.float32)
  layer(x)
  assert [v.name.rpartition('_')[2] for v in layer.trainable_variables] == [
    f'{name}:0' for name in ('t1', 'x1', 'y1', 't2', 'x2', 'y2')
  ]
  frozen = layer.non_trainable_variables
  assert [v.name.rpartition('/')[2] for v in frozen] == ['kernel_base:0', 'bias:0']
  assert not any(v.trainable for v in frozen)
  np.testing.assert_array_equal(layer.kernel, frozen[0])
  # 3 x 3 x 4 x 8 + 8 frozen; 2 * 2 * (4 + 8 + 2 * 9) trained.
  assert layer.count_params() == 288 + 8 + 120


@pytest.mark.parametrize('form', ['tucker', 'matrix'])
def test_kernel_after_training(form, rng):
  layer = layers.AdapterConv2D(8, 3, rank=2, scale=2.0, form=form)
  x = rng.normal(size=(2, 5, 5, 4)).astype(np.float32)
  layer(x)
  base = layer.kernel.numpy()
  factors = layer.factored_kernels['kernel'].factors
  factors['x2'].assign(rng.normal(size=factors['x2'].shape))
  twin = layers.FedParaConv2D(8, 3, rank=2, form=form, use_bias=False)
  twin(x)
  twin.set_weights([v.numpy() for v in layer.trainable_variables])
  np.testing.assert_allclose(layer.kernel, base + 2 * twin.kernel.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('product, one_factor, names', [
  ('plain', False, ['x1', 'y1']), ('plain', True, ['x1']), ('hadamard', True, ['x2']),
])  # fmt: skip
def test_which_factors_train(product, one_factor, names, rng):
  layer = layers.AdapterDense(20, rank=3, product=product, one_factor=one_factor)
  x = rng.normal(size=(2, 30)).astype(np.float32)
  layer(x)
  found = [v.name.rpartition('_')[2] for v in layer.trainable_variables]
  assert found == [f'{name}:0' for name in names]
  factors = layer.factored_kernels['kernel'].factors
  # The product is 0 at the start, since the last x is; all else is drawn.
  np.testing.assert_array_equal(layer.kernel, factors['base'])
  assert [name for name, factor in factors.items() if not np.any(factor)] == [names[0]]
  factors[names[0]].assign(rng.normal(size=(20, 3)))
  assert np.linalg.matrix_rank(layer.kernel - factors['base'], tol=1e-4) == (
    3 if product == 'plain' else 9
  )
  copy = layers.AdapterDense.from_config(layer.get_config())
  copy(x)
  assert len(copy.trainable_variables) == len(names)


def mean_kernel_and_kernel_of_mean(layer, rng, num_clients=5):
  """Of clients that trained from one adapter: the mean of their kernels, and FedAvg's."""
  kernels, weights = [], []
  for _ in range(num_clients):
    for variable in layer.trainable_variables:
      variable.assign(rng.normal(size=variable.shape))
    kernels.append(layer.kernel.numpy())
    weights.append([v.numpy() for v in layer.trainable_variables])
  for variable, *parts in zip(layer.trainable_variables, *weights, strict=True):
    variable.assign(np.mean(parts, 0))
  return np.mean(kernels, 0), layer.kernel.numpy()


@pytest.mark.parametrize('product', ['plain', 'hadamard'])
@pytest.mark.parametrize('make', [
  lambda **options: layers.AdapterDense(8, **options),
  lambda **options: layers.AdapterConv2D(8, 3, **options),
  lambda **options: layers.AdapterConv2D(8, 3, form='matrix', **options),
])  # fmt: skip
def test_mean_of_one_factor_is_the_mean_of_the_kernels(make, product, rng):
  x = rng.normal(size=(2, 5, 5, 4)).astype(np.float32)
  for one_factor in (True, False):
    layer = make(rank=2, product=product, one_factor=one_factor)
    layer(x)
    of_kernels, of_mean = mean_kernel_and_kernel_of_mean(layer, rng)
    base = layer.factored_kernels['kernel'].factors['base'].numpy().reshape(of_mean.shape)
    off = np.linalg.norm(of_kernels - of_mean) / np.linalg.norm(of_kernels - base)
    assert off < 1e-6 if one_factor else off > 0.3


def test_rank_of_the_update(rng):
  layer = layers.AdapterDense(20, rank=3, dtype='float64')
  layer(rng.normal(size=(2, 30)))
  base = layer.kernel.numpy()
  for variable in layer.trainable_variables:
    variable.assign(rng.normal(size=variable.shape))
  assert np.linalg.matrix_rank(layer.kernel - base) == 9


def test_frozen_layers_do_what_they_wrap(rng):
  x = rng.normal(size=(3, 6, 4)).astype(np.float32)
  mask = np.array([[1] * 6, [1] * 3 + [0] * 3, [1] + [0] * 5], bool)
  for make in (
    lambda: tf.keras.layers.LSTM(5),
    lambda: tf.keras.layers.Dense(5),
    lambda: tf.keras.layers.LayerNormalization(),
    lambda: tf.keras.layers.BatchNormalization(),
  ):
    frozen = adapters.Frozen(make())
    expected = make()
    frozen(x), expected(x)
    expected.set_weights(frozen.get_weights())
    takes_mask = isinstance(expected, tf.keras.layers.LSTM)
    arguments = dict(mask=mask) if takes_mask else {}
    np.testing.assert_allclose(frozen(x, mask=mask), expected(x, **arguments), rtol=1e-6)
    assert frozen.compute_output_shape(x.shape) == expected.compute_output_shape(x.shape)
    assert not frozen.trainable_variables
    assert not any(v.trainable for v in frozen.variables)
    copy = adapters.Frozen.from_config(frozen.get_config())
    copy(x)
    copy.set_weights(frozen.get_weights())
    np.testing.assert_allclose(copy(x, mask=mask), frozen(x, mask=mask), rtol=1e-6)


def test_frozen_embedding_masks():
  frozen = adapters.Frozen(tf.keras.layers.Embedding(9, 4, mask_zero=True))
  tokens = tf.constant([[1, 0]])
  np.testing.assert_array_equal(frozen(tokens)._keras_mask, [[True, False]])


def test_dropout_stays_off_outside_training(rng):
  frozen = adapters.Frozen(tf.keras.layers.Dropout(0.5))
  x = rng.normal(size=(3, 50)).astype(np.float32)
  np.testing.assert_array_equal(frozen(x), x)
  assert np.abs(frozen(x, training=True) - x).max() > 0


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='`scale` must be finite and above 0, found 0'):
    layers.AdapterDense(4, rank=2, scale=0)
  with pytest.raises(ValueError, match='`rank` must be at least 1'):
    layers.AdapterLSTM(4, rank=0)
  with pytest.raises(ValueError, match='`product` must be one of'):
    layers.AdapterDense(4, rank=2, product='sum')
  with pytest.raises(TypeError, match='`one_factor`'):
    layers.AdapterDense(4, rank=2, one_factor=1)
  with pytest.raises(TypeError, match='rank'):
    layers.AdapterDense(4)


@pytest.mark.parametrize('name', ['folder', 'file.keras', 'file.h5'])
def test_what_is_frozen_stays_so_in_saved_models(tmp_path, rng, name):
  model = tf.keras.Sequential([
    tf.keras.layers.LSTM(5, input_shape=(6, 4), name='lstm'),
    tf.keras.layers.BatchNormalization(),
    tf.keras.layers.Dense(3),
  ])  # fmt: skip
  adapted = layers.to_adapters(model, 2, skip=['lstm']).model
  adapted.save(tmp_path / name)
  loaded = tf.keras.models.load_model(tmp_path / name)
  assert len(loaded.trainable_variables) == len(adapted.trainable_variables) == 4
  assert len(loaded.variables) == len(adapted.variables)
  x = rng.normal(size=(2, 6, 4)).astype(np.float32)
  np.testing.assert_array_equal(loaded(x), adapted(x))
