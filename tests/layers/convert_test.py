"""Models to their twins and back: which layers, equal outputs, what trains."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import layers
from tff_lowrank.layers import adapters
from tff_lowrank.layers import clone

L = tf.keras.layers


def images_model():
  return tf.keras.Sequential(
    [
      L.InputLayer((12, 12, 3)),
      L.Conv2D(16, 3, activation='relu', name='first'),
      L.GroupNormalization(4, name='norm'),
      L.Conv2D(24, 3, strides=2, name='second'),
      L.Conv2D(24, 3, groups=2, padding='same', name='grouped'),
      L.Flatten(),
      L.Dense(48, activation='relu', name='hidden'),
      L.Dense(10, name='head'),
    ]
  )


def words_model():
  """Functional, with a nested model, a layer used twice, and a wrapped one."""
  tokens = tf.keras.Input((7,), dtype=tf.int32)
  x = L.Embedding(60, 24, mask_zero=True, name='words')(tokens)
  x = L.LSTM(24, return_sequences=True, name='lstm')(x)
  x = L.GRU(24, name='gru')(x)
  shared = L.Dense(24, activation='tanh', name='shared')
  nested = tf.keras.Sequential(
    [L.InputLayer((24,)), L.Dense(32, name='inner'), L.Dense(24, name='outer')], name='nested'
  )
  x = L.Add(name='sum')([nested(shared(x)), shared(x)])
  x = L.Reshape((4, 6))(x)
  x = L.TimeDistributed(L.Dense(3), name='wrapped')(x)
  return tf.keras.Model(tokens, x)


@pytest.fixture(params=['images', 'words'])
def model_and_inputs(request, rng):
  tf.keras.utils.set_random_seed(0)
  if request.param == 'images':
    return images_model(), rng.normal(size=(5, 12, 12, 3)).astype(np.float32)
  return words_model(), rng.integers(0, 60, size=(5, 7))


CONVERSIONS = {
  'fedpara': lambda m, **k: layers.to_fedpara(m, gamma=0.2, **k),
  'fedpara by budget': lambda m, **k: layers.to_fedpara(m, budget=0.7, **k),
  'pfedpara': lambda m, **k: layers.to_fedpara(m, gamma=0.2, personal=True, **k),
  'low_rank': lambda m, **k: layers.to_low_rank(m, gamma=0.2, **k),
}


@pytest.mark.each_once
@pytest.mark.parametrize('name', CONVERSIONS)
@pytest.mark.parametrize('trained', [False, True])
def test_composing_gives_the_twins_outputs(name, trained, model_and_inputs):
  model, x = model_and_inputs
  before = model.get_weights()
  conversion = CONVERSIONS[name](model, from_trained_weights=trained, fit_iterations=20)
  twin = conversion.model
  plain = layers.compose(twin)
  assert [type(layer) for layer in plain.layers] == [type(layer) for layer in model.layers]
  assert [layer.name for layer in plain.layers] == [layer.name for layer in model.layers]
  np.testing.assert_allclose(plain(x), twin(x), rtol=1e-3, atol=1e-5)
  assert [w.shape for w in plain.get_weights()] == [w.shape for w in before]
  for one, other in zip(model.get_weights(), before, strict=True):
    np.testing.assert_array_equal(one, other)
  assert twin.count_params() < model.count_params()
  assert all((k.fit_error is not None) == trained for k in conversion.kernels)


def test_kernels_that_are_converted():
  # At gamma 0. first: r = 2, 2 (2 (3 + 16) + 4 * 9) = 148; second: r = 4,
  # 2 (4 * 40 + 16 * 9) = 608; grouped, from 12 inputs of a group to 24 outputs: r = 4,
  # 2 (4 * 36 + 16 * 9) = 576; hidden: r = 7, 2 * 7 * (384 + 48); head: r = 4, 2 * 4 * (48 + 10).
  kernels = layers.to_fedpara(images_model(), gamma=0.0).kernels
  assert [(k.layer, k.rank, k.num_parameters) for k in kernels] == [
    ('first', 2, 148),
    ('second', 4, 608),
    ('grouped', 4, 576),
    ('hidden', 7, 6048),
    ('head', 4, 464),
  ]
  names = [(k.layer, k.kernel) for k in layers.to_fedpara(words_model(), gamma=0.0).kernels]
  assert names == [
    ('words', 'embeddings'),
    ('lstm', 'kernel'),
    ('lstm', 'recurrent_kernel'),
    ('gru', 'kernel'),
    ('gru', 'recurrent_kernel'),
    ('shared', 'kernel'),
    ('inner', 'kernel'),
    ('outer', 'kernel'),
  ]


def test_skipped_and_tiny_layers_stay():
  model = images_model()
  model.add(L.Dense(10, name='tiny'))  # At rank 4: 160 > 100.
  conversion = layers.to_fedpara(model, gamma=0.1, skip=['first', 'hidden'])
  assert [k.layer for k in conversion.kernels] == ['second', 'grouped', 'head']
  assert type(conversion.model.get_layer('tiny')) is L.Dense
  # By budget: rank 1 of the head costs 116 of 480, of the tiny layer 40 of 100.
  kernels = layers.to_fedpara(model, budget=0.25).kernels
  assert [k.layer for k in kernels] == ['first', 'second', 'grouped', 'hidden', 'head']
  assert kernels[-1].rank == 1
  assert all(k.num_parameters <= 0.25 * np.prod(k.shape) for k in kernels)


def test_low_rank_models_have_the_same_layers_and_size():
  model = images_model()
  fedpara, low_rank = layers.to_fedpara(model, gamma=0.3), layers.to_low_rank(model, gamma=0.3)
  assert [k.layer for k in fedpara.kernels] == [k.layer for k in low_rank.kernels]
  assert abs(fedpara.model.count_params() / low_rank.model.count_params() - 1) < 0.03


def test_fitted_models_keep_what_is_not_factorised(model_and_inputs):
  model, _ = model_and_inputs
  for layer in model.layers:
    if layer.name in ('first', 'hidden', 'shared'):
      layer.bias.assign(np.arange(layer.bias.shape[0], dtype=np.float32))
  twin = layers.to_fedpara(model, gamma=0.5, from_trained_weights=True, fit_iterations=10).model
  for layer in model.layers:
    other = twin.get_layer(layer.name)
    if layer.name in ('norm', 'wrapped'):
      for one, two in zip(layer.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    if hasattr(layer, 'bias'):
      np.testing.assert_array_equal(layer.bias, other.bias)


def test_fit_improves_with_the_rank_and_is_what_the_outputs_see(rng):
  tf.keras.utils.set_random_seed(0)
  model, x = images_model(), rng.normal(size=(5, 12, 12, 3)).astype(np.float32)
  errors, distances = [], []
  for gamma in (0.0, 0.5, 1.0):
    conversion = layers.to_fedpara(model, gamma=gamma, from_trained_weights=True)
    errors.append([k.fit_error for k in conversion.kernels])
    for k in conversion.kernels:
      kernel = model.get_layer(k.layer).kernel.numpy()
      fitted = conversion.model.get_layer(k.layer).kernel.numpy()
      np.testing.assert_allclose(
        np.linalg.norm(kernel - fitted) / np.linalg.norm(kernel), k.fit_error, rtol=1e-3
      )
    distances.append(np.linalg.norm(conversion.model(x) - model(x)))
  assert np.all(np.diff(errors, axis=0) <= 0)
  assert distances[2] < distances[0]


def test_adapters_start_at_the_model_and_train_alone(model_and_inputs):
  model, x = model_and_inputs
  conversion = layers.to_adapters(model, 2)
  adapted = conversion.model
  np.testing.assert_allclose(adapted(x), model(x), rtol=1e-5, atol=1e-6)
  trained = sum(v.shape.num_elements() for v in adapted.trainable_variables)
  assert trained == sum(k.num_parameters for k in conversion.kernels) < model.count_params()
  assert all(v.name.rpartition('_')[2][0] in 'txy' for v in adapted.trainable_variables)
  assert not any(v.trainable for v in adapted.non_trainable_variables)
  frozen = [v.numpy() for v in adapted.non_trainable_variables]
  adapted.compile(tf.keras.optimizers.SGD(0.05), 'mse')
  target = np.ones_like(model(x))
  losses = adapted.fit(x, target, epochs=10, verbose=0).history['loss']
  assert losses[-1] < losses[0]
  for variable, value in zip(adapted.non_trainable_variables, frozen, strict=True):
    np.testing.assert_array_equal(variable, value)
  merged = layers.compose(adapted)
  np.testing.assert_allclose(merged(x), adapted(x), rtol=1e-3, atol=1e-5)
  assert [type(layer) for layer in merged.layers] == [type(layer) for layer in model.layers]
  assert merged.count_params() == model.count_params()
  assert len(merged.trainable_variables) == len(model.trainable_variables)


@tf.keras.saving.register_keras_serializable('tests')
class Scale(L.Layer):
  """A layer that Keras does not have."""

  def build(self, input_shape):
    self.scale = self.add_weight(name='personal_scale', shape=input_shape[-1:], initializer='ones')

  def call(self, x):
    return x * self.scale


def frozen_layers_model():
  """Layers that are frozen as they are: recurrent ones, wrapped, custom, with several inputs."""
  x = tf.keras.Input((7, 5))
  y = L.Bidirectional(L.LSTM(4, return_sequences=True), name='both')(x)
  y = L.LSTM(4, return_sequences=True, name='kept')(Scale()(y))
  y = L.MultiHeadAttention(2, 4)(y, y)
  return tf.keras.Model(x, L.Dense(3)(y))


def test_adapted_models_with_any_frozen_layers_are_saved_and_trained_by_tff(rng, tmp_path):
  model = frozen_layers_model()
  x = rng.normal(size=(5, 7, 5)).astype(np.float32)
  adapted = layers.to_adapters(model, 2, skip=['kept', 'both']).model
  np.testing.assert_allclose(adapted(x), model(x), atol=1e-6)
  assert len(adapted.trainable_variables) == 4
  assert len(adapted.non_trainable_variables) == len(model.weights)
  for name in ('model.keras', 'model.h5'):
    adapted.save(tmp_path / name)
    loaded = tf.keras.models.load_model(tmp_path / name)
    np.testing.assert_array_equal(loaded(x), adapted(x))
  composed = layers.compose(adapted)
  np.testing.assert_allclose(composed(x), model(x), atol=1e-6)
  assert len(composed.trainable_variables) == len(model.trainable_variables)
  functional = tff.learning.models.functional_model_from_keras(
    adapted,
    tf.keras.losses.MeanSquaredError(),
    (tf.TensorSpec((None, 7, 5)), tf.TensorSpec((None, 7, 3))),
  )
  trainable, others = functional.initial_weights
  assert [w.shape for w in trainable] == [w.shape for w in adapted.trainable_variables]
  assert len(others) == len(model.weights)


def test_wrapped_factorised_layers_are_cloned_and_saved(rng, tmp_path):
  model = tf.keras.Sequential(
    [
      L.InputLayer((3, 6, 6, 2)),
      L.TimeDistributed(layers.FedParaConv2D(4, 3, rank=2)),
      L.TimeDistributed(L.Flatten()),
      L.Bidirectional(layers.FedParaGRU(4, rank=2)),
    ]
  )
  x = rng.normal(size=(5, 3, 6, 6, 2)).astype(np.float32)
  for name in ('model.keras', 'model.h5'):
    model.save(tmp_path / name)
    np.testing.assert_array_equal(tf.keras.models.load_model(tmp_path / name)(x), model(x))
  clone = tf.keras.models.clone_model(model)
  clone.set_weights(model.get_weights())
  np.testing.assert_array_equal(clone(x), model(x))


def test_refuses_what_is_shared_between_models():
  x = tf.keras.Input((60,))
  shared = L.Dense(60, name='shared')
  model = tf.keras.Model(x, shared(tf.keras.Model(x, shared(x), name='encoder')(x)))
  with pytest.raises(
    ValueError, match="in a wrapper and elsewhere, cannot be converted, found 'shared'"
  ):
    layers.to_fedpara(model, gamma=0.1)
  with pytest.raises(ValueError, match='in two nested models'):
    layers.compose(model)


def test_nested_models_and_constrained_layers_that_stay():
  assert {'inner', 'outer'}.isdisjoint(
    report.layer for report in layers.to_fedpara(words_model(), gamma=0.1, skip=['nested']).kernels
  )
  constrained = tf.keras.Sequential(
    [
      L.InputLayer((60,)),
      L.Dense(60, kernel_constraint='non_neg'),
      L.Dense(60, bias_constraint='non_neg', name='free'),
    ]
  )
  kernels = layers.to_fedpara(constrained, gamma=0.1).kernels
  assert [report.layer for report in kernels] == ['free']


def test_a_weight_of_another_layer_is_not_personal():
  model = tf.keras.Sequential(
    [L.InputLayer((6,)), Scale(), layers.FedParaDense(4, rank=2, personal=True)]
  )
  assert layers.personal_mask(model) == [False, False, False, True, True, False]


def test_skipped_layers_of_adapted_models_are_frozen():
  adapted = layers.to_adapters(images_model(), 2, skip=['head']).model
  assert isinstance(adapted.get_layer('head'), adapters.Frozen)
  assert isinstance(adapted.get_layer('norm'), adapters.Frozen)
  assert isinstance(adapted.get_layer('hidden'), layers.AdapterDense)


@pytest.mark.parametrize('named', [['head'], ['nested', 'outside', 'norm']])
def test_what_is_named_trains_whole_beside_the_adapters(named, rng, tmp_path):
  nested = tf.keras.Sequential(
    [L.InputLayer((6,)), L.Dense(8, name='inside'), L.BatchNormalization(name='norm')],
    name='nested',
  )
  model = tf.keras.Sequential(
    [
      L.InputLayer((4, 5)),
      L.LSTM(6, name='recurrent'),
      nested,
      L.Reshape((1, 8)),
      L.TimeDistributed(L.Dense(5, name='within'), name='outside'),
      L.Flatten(),
      L.Dense(3, trainable=False, name='head'),
    ]
  )
  x = rng.normal(size=(16, 4, 5)).astype(np.float32)
  conversion = layers.to_adapters(model, 2, trainable=named)
  adapted = conversion.model
  np.testing.assert_allclose(adapted(x), model(x), rtol=1e-5, atol=1e-6)
  whole = {'head': ['head'], 'nested': ['inside', 'norm', 'within']}[named[0]]
  assert [name for name, reason in conversion.left.items() if '`trainable`' in reason] == whole
  before = {id(v): v.numpy() for v in adapted.variables}
  adapted.compile(tf.keras.optimizers.SGD(0.1), 'mse')
  for _ in range(2):  # Of the adapters, x2 alone has a gradient at first.
    adapted.fit(x, rng.normal(size=(16, 3)), epochs=2, verbose=0)
  changed = {id(v) for v in adapted.variables if np.any(v.numpy() != before[id(v)])}
  trained = {
    id(v) for layer, _ in clone.leaves(adapted) if layer.name in whole for v in layer.weights
  }
  factors = {
    id(v)
    for layer, _ in clone.leaves(adapted)
    for kernel in getattr(layer, 'factored_kernels', {}).values()
    for name, v in kernel.factors.items()
    if name != 'base'
  }
  assert changed == trained | factors
  adapted.save(tmp_path / 'model.keras')
  loaded = tf.keras.models.load_model(tmp_path / 'model.keras')
  np.testing.assert_allclose(loaded(x), adapted(x), rtol=1e-6, atol=1e-7)
  assert len(loaded.trainable_variables) == len(adapted.trainable_variables)
  composed = layers.compose(adapted)
  np.testing.assert_allclose(composed(x), adapted(x), rtol=1e-4, atol=1e-5)


def test_refuses_bad_names_of_layers_that_train_whole():
  model = images_model()
  with pytest.raises(ValueError, match=r"`trainable` must name layers .* found \['third'\]"):
    layers.to_adapters(model, 2, trainable=['third'])
  with pytest.raises(TypeError, match="`trainable` must be a collection of names, found 'head'"):
    layers.to_adapters(model, 2, trainable='head')
  with pytest.raises(ValueError, match=r"must not name the same layers, found \['head'\] in both"):
    layers.to_adapters(model, 2, skip=['head'], trainable=['head', 'hidden'])


def test_converted_models_can_be_saved(model_and_inputs, tmp_path):
  model, x = model_and_inputs
  for i, twin in enumerate(
    [layers.to_fedpara(model, gamma=0.2).model, layers.to_adapters(model, 2).model]
  ):
    path = str(tmp_path / f'{i}.keras')
    twin.save(path)
    loaded = tf.keras.models.load_model(path)
    np.testing.assert_allclose(loaded(x), twin(x), rtol=1e-5, atol=1e-6)
    assert len(loaded.trainable_variables) == len(twin.trainable_variables)


def test_options_arrive():
  twin = layers.to_fedpara(images_model(), gamma=0.2, tanh=True, recompute=True).model
  config = twin.get_layer('second').get_config()
  assert config['tanh'] and config['recompute'] and config['strides'] == (2, 2)
  assert config['gamma'] == 0.2
  assert sum(layers.personal_mask(layers.to_fedpara(images_model(), gamma=0, personal=True).model))


def test_models_built_by_their_shape():
  model = tf.keras.Sequential([L.Dense(64), L.Dense(64)])
  with pytest.raises(ValueError, match='`model` must be built'):
    layers.to_fedpara(model, gamma=0.1)
  model.build((None, 64))
  assert len(layers.to_fedpara(model, gamma=0.1).kernels) == 2


def test_refuses_bad_arguments():
  model = images_model()
  with pytest.raises(TypeError, match='`model` must be `Model`'):
    layers.to_fedpara(L.Dense(3), gamma=0.1)
  with pytest.raises(ValueError, match=r"`skip` must name layers .* found \['third'\]"):
    layers.to_fedpara(model, gamma=0.1, skip=['third'])
  with pytest.raises(TypeError, match="`skip` must be a collection of names, found 'head'"):
    layers.to_fedpara(model, gamma=0.1, skip='head')
  with pytest.raises(ValueError, match='Exactly one'):
    layers.to_fedpara(model)
  with pytest.raises(ValueError, match='`rank` must be at least 1'):
    layers.to_adapters(model, 0)

  class Subclass(tf.keras.Model):
    def call(self, x):
      return x

  subclass = Subclass()
  subclass(np.ones((1, 2)))
  for convert in (
    layers.compose,
    *CONVERSIONS.values(),
    lambda model: layers.to_adapters(model, 2),
  ):
    with pytest.raises(
      ValueError, match='found Subclass, a subclassed model: a keras.Model with its'
    ):
      convert(subclass)
