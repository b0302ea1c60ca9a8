"""Models with wrappers and nested models, converted and composed again."""

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank.layers import clone

L = tf.keras.layers


@tf.keras.saving.register_keras_serializable('tests')
class Doubled(L.Wrapper):
  """A wrapper that Keras does not have."""

  def call(self, x):
    return 2 * self.layer(x)

  def compute_output_shape(self, input_shape):
    return self.layer.compute_output_shape(input_shape)


def both_directions(**kwargs):
  return L.Bidirectional(L.LSTM(12, return_sequences=True, name='lstm'), name='both', **kwargs)


def clips(inner):
  return tf.keras.Sequential([L.InputLayer((5, 8, 8, 3)), inner])


def frames():
  return tf.keras.Sequential(
    [
      L.InputLayer((8, 8, 3)),
      L.Conv2D(16, 3, name='conv'),
      L.BatchNormalization(name='norm'),
      L.Flatten(name='flat'),
      L.Dense(24, name='inner'),
    ],
    name='frames',
  )


def sequences(*stack):
  return tf.keras.Sequential([L.InputLayer((5, 16)), *stack])


# A model, the layers of it that are converted, and the class of the layer that holds them.
MODELS = {
  'TimeDistributed': (
    lambda: sequences(L.TimeDistributed(L.Dense(20, name='dense'), name='wrapped')),
    ('dense',),
  ),
  'TimeDistributed convolution': (
    lambda: clips(L.TimeDistributed(L.Conv2D(16, 3, name='conv'))),
    ('conv',),
  ),
  'TimeDistributed model': (lambda: clips(L.TimeDistributed(frames())), ('conv', 'inner')),
  'Bidirectional': (lambda: sequences(both_directions()), ('forward_lstm', 'backward_lstm')),
  'Bidirectional sum': (
    lambda: sequences(L.Masking(), both_directions(merge_mode='sum')),
    ('forward_lstm', 'backward_lstm'),
  ),
  'Bidirectional of two': (
    lambda: sequences(
      both_directions(
        backward_layer=L.GRU(12, return_sequences=True, go_backwards=True, name='gru')
      )
    ),
    ('forward_lstm', 'backward_gru'),
  ),
  'registered': (lambda: sequences(Doubled(L.Dense(20, name='dense'))), ('dense',)),
  'wrapped wrapper': (
    lambda: tf.keras.Sequential(
      [L.InputLayer((3, 5, 16)), L.TimeDistributed(L.TimeDistributed(L.Dense(20, name='dense')))]
    ),
    ('dense',),
  ),
}


@pytest.fixture(params=MODELS)
def case(request, rng):
  """A model with random weights, inputs, and the names of the layers to be converted."""
  tf.keras.utils.set_random_seed(0)
  make, names = MODELS[request.param]
  model = make()
  model.set_weights([w + 0.1 * rng.normal(size=w.shape) for w in model.get_weights()])
  return model, rng.normal(size=(4, *model.input_shape[1:])).astype(np.float32), names


CONVERSIONS = {
  'fedpara': lambda m: layers.to_fedpara(m, gamma=0.1),
  'low rank, fitted': lambda m: layers.to_low_rank(
    m, gamma=0.2, from_trained_weights=True, fit_iterations=20
  ),
  'adapters': lambda m: layers.to_adapters(m, 2),
}


@pytest.mark.each_once
@pytest.mark.parametrize('name', CONVERSIONS)
def test_what_is_wrapped_is_converted_and_composed_again(name, case, tmp_path):
  model, x, names = case
  conversion = CONVERSIONS[name](model)
  assert conversion.converted == names
  twin = conversion.model
  assert type(twin.layers[-1]) is type(model.layers[-1])
  plain = layers.compose(twin)
  assert [type(layer) for layer, _ in clone.leaves(plain)] == [
    type(layer) for layer, _ in clone.leaves(model)
  ]
  assert [path for _, path in clone.leaves(plain)] == [path for _, path in clone.leaves(model)]
  np.testing.assert_allclose(plain(x), twin(x), rtol=1e-3, atol=1e-5)
  if name == 'adapters':
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-5, atol=1e-6)
    assert len(plain.trainable_variables) == len(model.trainable_variables)
    sizes = sum(v.shape.num_elements() for v in twin.trainable_variables)
    assert sizes == sum(kernel.num_parameters for kernel in conversion.kernels)
    assert not any(v.trainable for v in twin.non_trainable_variables)
  else:
    assert twin.count_params() < model.count_params()
  for extension in ('keras', 'h5'):
    twin.save(tmp_path / f'model.{extension}')
    loaded = tf.keras.models.load_model(tmp_path / f'model.{extension}')
    np.testing.assert_array_equal(loaded(x), twin(x))
  copy = tf.keras.models.clone_model(twin)
  copy.set_weights(twin.get_weights())
  np.testing.assert_array_equal(copy(x), twin(x))


def test_fitted_factors_in_wrappers_are_of_the_wrapped_kernels():
  """At full rank nearly the model's own outputs, so that no direction has the other's kernel."""
  tf.keras.utils.set_random_seed(0)
  model = sequences(both_directions())
  x = tf.random.normal([4, 5, 16])
  conversion = layers.to_low_rank(model, budget=1.0, from_trained_weights=True)
  for report in conversion.kernels:
    assert report.fit_error < 0.7
  for old, new in clone.pairs(model, conversion.model):
    for kernel, error in zip(
      ('kernel', 'recurrent_kernel'),
      [k.fit_error for k in conversion.kernels if k.layer == new.name],
      strict=True,
    ):
      target, fitted = (getattr(layer.cell, kernel).numpy() for layer in (old, new))
      distance = np.linalg.norm(fitted - target) / np.linalg.norm(target)
      np.testing.assert_allclose(distance, error, rtol=1e-3)
    np.testing.assert_array_equal(old.cell.bias, new.cell.bias)
  assert conversion.model(x).shape == model(x).shape


def test_skipped_by_the_wrappers_name_or_the_layers():
  def model():
    return sequences(both_directions(), L.TimeDistributed(L.Dense(20, name='in'), name='out'))

  for name in ('in', 'out'):
    conversion = layers.to_fedpara(model(), gamma=0.1, skip=[name])
    assert conversion.converted == ('forward_lstm', 'backward_lstm')
    assert conversion.left == {'in': 'it is named in `skip`'}
  for name in ('both', 'forward_lstm'):
    for convert in (
      lambda m, **k: layers.to_fedpara(m, gamma=0.1, **k),
      lambda m, **k: layers.to_adapters(m, 2, **k),
    ):
      conversion = convert(model(), skip=[name])
      assert conversion.converted == ('in',)
      assert list(conversion.left) == ['forward_lstm', 'backward_lstm']
  assert (
    conversion.left['backward_lstm'] == 'the other direction of its Bidirectional is not converted'
  )


def test_adapters_in_frozen_models_train():
  model = sequences(
    both_directions(), L.TimeDistributed(L.Dense(20), name='wrapped'), L.Dense(20, name='head')
  )
  model.trainable = False
  conversion = layers.to_adapters(model, 2)
  sizes = sum(v.shape.num_elements() for v in conversion.model.trainable_variables)
  assert sizes == sum(kernel.num_parameters for kernel in conversion.kernels)
  assert not layers.to_fedpara(model, gamma=0.1).model.trainable_variables


def test_wrappers_with_weights_of_their_own_stay():
  """Such as the vector of a spectral normalisation, which writes to the kernel."""
  model = sequences(L.SpectralNormalization(L.Dense(20), name='normed'), L.Dense(40, name='head'))
  conversion = layers.to_fedpara(model, gamma=0.1, from_trained_weights=True)
  assert conversion.converted == ('head',)
  assert conversion.left == {'normed': 'SpectralNormalization has no factorised form'}
  x = tf.random.normal([4, 5, 16])
  np.testing.assert_allclose(
    conversion.model.layers[0](x), model.layers[0](x), rtol=1e-5, atol=1e-6
  )


def test_refuses_what_is_shared_between_a_wrapper_and_a_model():
  x = tf.keras.Input((5, 16))
  shared = L.Dense(16, name='shared')
  model = tf.keras.Model(x, shared(L.TimeDistributed(shared)(x)))
  for convert in (layers.compose, lambda m: layers.to_fedpara(m, gamma=0.1)):
    with pytest.raises(ValueError, match="in a wrapper and elsewhere.* found 'shared'"):
      convert(model)


class OwnCall(tf.keras.Model):
  """Functional inside, and yet computing something else."""

  def call(self, inputs, training=None, mask=None):
    return 3 * super().call(inputs, training, mask)


class OwnStep(tf.keras.Model):
  """Functional, trained in its own way."""

  def train_step(self, data):
    return super().train_step(data)


def test_subclassed_models_are_refused_wherever_they_are():
  x = tf.keras.Input((16,))
  y = L.Dense(20, name='dense')(x)
  for model in (OwnCall(x, y), tf.keras.Sequential([L.InputLayer((16,)), OwnCall(x, y)])):
    with pytest.raises(ValueError, match='found OwnCall, a subclassed model: .* its own `call`'):
      layers.to_fedpara(model, gamma=0.1)
  wrapped = tf.keras.Sequential([L.InputLayer((5, 16)), L.TimeDistributed(OwnCall(x, y))])
  with pytest.raises(ValueError, match='found OwnCall, a subclassed model'):
    layers.to_adapters(wrapped, 2)
  assert layers.to_fedpara(OwnStep(x, y), gamma=0.1).converted == ('dense',)


@tf.keras.utils.register_keras_serializable('clone_test')
class Affine(tf.keras.layers.Layer):
  """A fixed shift, made before a gain that trains."""

  def build(self, shape):
    self.shift = self.add_weight(name='shift', shape=shape[-1:], trainable=False)
    self.gain = self.add_weight(name='gain', shape=shape[-1:])
    super().build(shape)

  def call(self, x):
    return x * self.gain + self.shift


@tf.keras.utils.register_keras_serializable('clone_test')
class TwoNorms(tf.keras.layers.Layer):
  """Two layers, each with weights that train and others."""

  def __init__(self, **settings):
    super().__init__(**settings)
    self.norms = [tf.keras.layers.BatchNormalization() for _ in range(2)]

  def build(self, shape):
    for norm in self.norms:
      norm.build(shape)
    super().build(shape)

  def call(self, x):
    return self.norms[1](tf.nn.relu(self.norms[0](x)))


@pytest.mark.parametrize('layer', [Affine(), TwoNorms()])
def test_frozen_layers_have_the_weights_of_their_names(rng, layer):
  model = tf.keras.Sequential([tf.keras.Input([16]), layer, tf.keras.layers.Dense(8)])
  model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
  x = rng.normal(size=(3, 16)).astype(np.float32)
  trainable = [each.trainable for each in model.submodules if hasattr(each, 'trainable')]
  adapted = layers.to_adapters(model, 2).model
  np.testing.assert_allclose(adapted(x), model(x), rtol=1e-6)
  np.testing.assert_allclose(layers.compose(adapted)(x), model(x), rtol=1e-6)
  assert trainable == [each.trainable for each in model.submodules if hasattr(each, 'trainable')]


@pytest.mark.parametrize('wrap', [L.TimeDistributed, lambda x: L.TimeDistributed(Doubled(x))])
def test_layers_of_the_user_s_own_may_be_wrapped(rng, wrap):
  model = sequences(wrap(Affine(name='affine')), L.Dense(20, name='dense'))
  x = rng.normal(size=(2, 5, 16)).astype(np.float32)
  adapted = layers.to_adapters(model, 2)
  assert adapted.left == {'affine': 'Affine has no factorised form'}
  for twin in (adapted.model, layers.compose(adapted.model)):
    np.testing.assert_allclose(twin(x), model(x), rtol=1e-5, atol=1e-6)


def test_layers_that_cannot_be_made_anew_are_refused():
  class Unsaved(L.Layer):
    def get_config(self):
      raise KeyError('size')

  model = sequences(Unsaved(name='mine'), L.Dense(20))
  with pytest.raises(ValueError, match="found 'mine' of class Unsaved, where this raises KeyError"):
    layers.to_adapters(model, 2)
