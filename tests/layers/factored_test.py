"""What every factorised layer promises: to be a Keras layer, equal to the plain one it composes."""

import numpy as np
import pytest
import tensorflow as tf

from tests.layers import cases
from tff_lowrank import layers
from tff_lowrank.layers import convert
from tff_lowrank.layers import factored


@pytest.fixture(params=cases.ALL, ids=lambda case: ' '.join(case))
def case(request):
  return request.param


def test_outputs_are_the_plain_layers_with_the_composed_kernel(case, rng):
  layer, shape = cases.make(*case)
  model = cases.model_of(layer, shape)
  cases.randomize(layer, rng)
  composed = convert.compose(model)
  assert type(composed.layers[0]) is cases.plain_class(case[1])
  x = cases.inputs(shape, rng)
  np.testing.assert_allclose(model(x), composed(x), rtol=1e-4, atol=1e-5)
  assert layer.compute_output_shape((None, *shape)) == composed.layers[0].compute_output_shape(
    (None, *shape)
  )
  assert model.output_shape == composed.output_shape
  for name, kernel in layer.factored_kernels.items():
    owner = getattr(composed.layers[0], 'cell', composed.layers[0])
    np.testing.assert_array_equal(getattr(owner, name), kernel.compose())


@pytest.mark.each_once
def test_config_round_trip_and_its_effect(case, rng):
  layer, shape = cases.make(*case)
  model = cases.model_of(layer, shape)
  config = layer.get_config()
  copy = type(layer).from_config(config)
  assert copy.get_config() == config
  twin = cases.model_of(copy, shape)
  twin.set_weights(model.get_weights())
  x = cases.inputs(shape, rng)
  np.testing.assert_array_equal(model(x), twin(x))
  assert [v.shape for v in tf.keras.models.clone_model(model).weights] == [
    v.shape for v in model.weights
  ]


@pytest.mark.each_once
@pytest.mark.parametrize('plain', cases.PLAIN)
@pytest.mark.parametrize('extension', ['.keras', '', '.h5'])
def test_saving_and_loading(plain, extension, rng, tmp_path):
  layer, shape = cases.make('FedPara personal', plain)
  model = cases.model_of(layer, shape)
  model.compile('sgd', 'mse')
  path = str(tmp_path / f'model{extension}')
  model.save(path)
  loaded = tf.keras.models.load_model(path)
  assert type(loaded.layers[0]) is type(layer)
  assert layers.personal_mask(loaded) == layers.personal_mask(model)
  x = cases.inputs(shape, rng)
  np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6, atol=1e-7)


@pytest.mark.each_once
def test_weights_alone_can_be_saved(case, rng, tmp_path):
  layer, shape = cases.make(*case)
  model = cases.model_of(layer, shape)
  model.save_weights(str(tmp_path / 'w.weights.h5'))
  other = cases.model_of(cases.make(*case)[0], shape)
  other.load_weights(str(tmp_path / 'w.weights.h5'))
  x = cases.inputs(shape, rng)
  np.testing.assert_array_equal(model(x), other(x))


@pytest.mark.each_once
@pytest.mark.parametrize('plain', cases.PLAIN)
@pytest.mark.parametrize('policy', ['mixed_bfloat16', 'mixed_float16', 'float64'])
def test_precision(plain, policy, rng):
  layer, shape = cases.make('FedPara', plain, dtype=policy)
  model = cases.model_of(layer, shape)
  expected = tf.keras.mixed_precision.Policy(policy)
  assert {v.dtype for v in model.weights} == {tf.as_dtype(expected.variable_dtype)}
  x = cases.inputs(shape, rng)
  with tf.GradientTape() as tape:
    y = model(x)
    loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
  assert y.dtype == expected.compute_dtype
  gradients = tape.gradient(loss, model.trainable_variables)
  assert all(g.dtype == expected.variable_dtype for g in gradients)
  single = cases.model_of(cases.make('FedPara', plain)[0], shape)
  single.set_weights(model.get_weights())
  np.testing.assert_allclose(tf.cast(y, tf.float32), single(x), atol=0.05, rtol=0.05)


@pytest.mark.each_once
def test_learns_by_gradient_descent(case, rng):
  layer, shape = cases.make(*case)
  model = cases.model_of(layer, shape)
  x = cases.inputs(shape, rng)
  target = np.tanh(rng.normal(size=model(x).shape))
  model.compile(tf.keras.optimizers.Adam(0.03), 'mse')
  losses = model.fit(x, target, epochs=40, verbose=0).history['loss']
  assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(
  'arguments',
  [
    dict(strides=2, padding='valid'),
    dict(strides=(1, 2), padding='same'),
    dict(dilation_rate=2, padding='same'),
    dict(dilation_rate=(1, 2), padding='valid'),
  ],
)
@pytest.mark.parametrize('form', ['tucker', 'matrix'])
def test_convolution_is_that_of_the_composed_kernel(arguments, form, rng):
  layer = layers.FedParaConv2D(8, (3, 2), rank=3, form=form, use_bias=False, **arguments)
  x = rng.normal(size=(2, 9, 8, 5)).astype(np.float32)
  expected = tf.nn.conv2d(
    x,
    layer(x) is not None and layer.kernel,
    strides=arguments.get('strides', 1),
    padding=arguments['padding'].upper(),
    dilations=arguments.get('dilation_rate', 1),
  )
  np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
  assert layer.kernel.shape == (3, 2, 5, 8)
  assert layer.compute_output_shape(x.shape) == expected.shape


def test_dense_on_more_axes(rng):
  layer = layers.FedParaDense(4, rank=2)
  x = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
  np.testing.assert_allclose(layer(x), x @ layer.kernel.numpy() + layer.bias, rtol=1e-4, atol=1e-5)
  symbolic = layer(tf.keras.Input((3, None, 6)))
  assert symbolic.shape.as_list() == [None, 3, None, 4]


def test_masks_pass_through():
  embedding = layers.FedParaEmbedding(11, 6, rank=2, mask_zero=True)
  tokens = tf.constant([[1, 2, 0], [3, 0, 0]])
  x = embedding(tokens)
  np.testing.assert_array_equal(embedding.compute_mask(tokens), [[1, 1, 0], [1, 0, 0]])
  np.testing.assert_array_equal(x._keras_mask, [[1, 1, 0], [1, 0, 0]])
  y = layers.FedParaDense(4, rank=2)(x)
  np.testing.assert_array_equal(y._keras_mask, [[1, 1, 0], [1, 0, 0]])
  assert layers.FedParaEmbedding(11, 6, rank=2).compute_mask(tokens) is None


def test_embedding_trains_the_rows_it_saw(rng):
  layer = layers.FedParaEmbedding(11, 6, rank=2)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(tf.constant([[3, 5, 3]])) ** 2)
  gradient = tf.convert_to_tensor(
    tape.gradient(loss, layer.factored_kernels['embeddings'].factors['y1'])
  )
  assert set(np.nonzero(np.abs(gradient).sum(1))[0]) == {3, 5}


def test_regularizers_act_on_each_factor(rng):
  layer = layers.FedParaDense(4, rank=2, kernel_regularizer=tf.keras.regularizers.L2(0.1))
  layer(np.zeros((1, 3), np.float32))
  expected = 0.1 * sum(np.sum(np.square(w)) for w in layer.get_weights()[:4])
  np.testing.assert_allclose(tf.add_n(layer.losses), expected, rtol=1e-6)


def test_personal_mask():
  dense = tf.keras.layers.Dense
  model = tf.keras.Sequential(
    [tf.keras.layers.InputLayer((6,)), layers.FedParaDense(5, rank=2, personal=True), dense(3)]
  )
  # x1, y1, x2, y2, bias; kernel, bias.
  assert layers.personal_mask(model) == [False, False, True, True, False, False, False]


def test_images_of_unknown_size():
  layer = layers.FedParaConv2D(8, 3, rank=2, padding='same')
  assert layer(tf.keras.Input((None, None, 5))).shape.as_list() == [None, None, None, 8]


@pytest.mark.parametrize('recompute', [False, True])
def test_empty_batches(recompute):
  layer = layers.FedParaDense(8, rank=2, recompute=recompute)
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(layer(tf.zeros([0, 5])))
  for gradient in tape.gradient(loss, layer.trainable_variables):
    np.testing.assert_array_equal(gradient, tf.zeros_like(gradient))


def test_unknown_sizes_are_refused():
  with pytest.raises(ValueError, match='last size of the input must be known'):
    layers.FedParaDense(4, rank=2).build((None, None))
  with pytest.raises(ValueError, match='number of channels must be known'):
    layers.FedParaConv2D(4, 3, rank=2).build((None, 8, 8, None))
  with pytest.raises(ValueError, match='incompatible with the layer'):
    layer = layers.FedParaDense(4, rank=2)
    layer(np.zeros((2, 3), np.float32))
    layer(np.zeros((2, 5), np.float32))


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match='must be a multiple of `groups`, found 3 channels and 2'):
    layers.FedParaConv2D(4, 3, rank=2, groups=2).build((None, 8, 8, 3))
  with pytest.raises(TypeError, match='at most 9 positional arguments, found 10'):
    layers.FedParaConv2D(4, 3, 1, 'same', None, 1, 2, 'relu', True, 'he_normal', rank=2)
  with pytest.raises(TypeError, match='at most 8 positional arguments, found 9'):
    layers.FedParaDepthwiseConv2D(3, 1, 'same', 2, None, 1, 'relu', True, 'he_normal', rank=2)
  with pytest.raises(TypeError, match='at most 3 positional arguments, found 4'):
    layers.FedParaDense(4, 'relu', True, 'he_normal', rank=2)
  with pytest.raises(TypeError, match='at most 4 positional arguments, found 5'):
    layers.LowRankGRU(4, 'tanh', 'sigmoid', True, 'he_normal', rank=2)
  with pytest.raises(ValueError, match='`kernel_initializer` is not supported'):
    layers.FedParaDense(4, rank=2, kernel_initializer='zeros')
  with pytest.raises(ValueError, match='`recurrent_constraint` is not supported'):
    layers.FedParaLSTM(4, rank=2, recurrent_constraint='non_neg')
  with pytest.raises(TypeError, match='`recompute` must be `bool`'):
    layers.FedParaDense(4, rank=2, recompute=1)
  with pytest.raises(ValueError, match='Exactly one of `rank`, `gamma` and `budget`'):
    layers.FedParaDense(4)
  with pytest.raises(ValueError, match=r'`gamma` must be in \[0, 1\], found 2'):
    layers.LowRankGRU(4, gamma=2)
  with pytest.raises(ValueError, match="`form` must be one of 'matrix', 'tucker'"):
    layers.FedParaConv2D(4, 3, rank=2, form='cp')


def test_variances_by_hand():
  assert factored.he_variance((3, 3, 64, 128)) == 2 / 576
  assert factored.he_variance((784, 256)) == 2 / 784
  # A uniform variable in [-a, a] has variance a^2 / 3.
  np.testing.assert_allclose(factored.EMBEDDING_VARIANCE, 0.05**2 / 3)
