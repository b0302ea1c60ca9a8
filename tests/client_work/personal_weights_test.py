import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tests.learning import linear
from tff_lowrank import client_work
from tff_lowrank import layers
from tff_lowrank import models
from tff_lowrank.client_work import personal_weights


def test_split_and_merge_are_inverse():
  split = personal_weights.build_split([False, True, False], 3)
  shared, own = split.shared_part(['a', 'b', 'c']), split.personal_part(['a', 'b', 'c'])
  assert (shared, own) == (('a', 'c'), ('b',))
  assert split.merge(shared, own, (0, 0, 0)) == ('a', 'b', 'c')
  assert split.merge(shared, own, [0, 0, 0]) == ['a', 'b', 'c']
  with pytest.raises(ValueError, match='Expected 2 shared and 1 personal weights, found 1 and 2'):
    split.merge(('a',), ('b', 'c'), (0, 0, 0))


def test_refuses_wrong_masks():
  with pytest.raises(ValueError, match='one bool for each of the 3 trainable weights, found 2'):
    personal_weights.build_split([True, False], 3)
  with pytest.raises(TypeError, match='`personal` must be `bool`'):
    personal_weights.build_split([1, 0], 2)
  with pytest.raises(TypeError, match='`personal` must be `list` or `tuple`'):
    personal_weights.build_split('abc', 3)


def test_last_layer_mask():
  mask = client_work.last_layer_mask(models.build_two_fc((4,), 3))
  assert mask == [False, False, True, True]
  # Layers without weights at the end do not count; factors and biases do.
  inputs = tf.keras.layers.Input((8,))
  x = layers.FedParaDense(8, rank=2)(tf.keras.layers.Dense(8)(inputs))
  model = tf.keras.Model(inputs, tf.keras.layers.ReLU()(x))
  assert client_work.last_layer_mask(model) == [False] * 2 + [True] * 5
  with pytest.raises(ValueError, match='no trainable variables'):
    client_work.last_layer_mask(tf.keras.Sequential([tf.keras.layers.ReLU()]))


def test_initial_values_of_a_functional_model(rng):
  model = linear.build_model(rng)
  values = personal_weights.initial_values(model)
  assert isinstance(values.trainable, tuple)
  for got, wanted in zip(values.trainable, model.initial_weights[0], strict=True):
    np.testing.assert_array_equal(got, wanted)


def test_initial_values_of_a_random_model_are_fixed():
  def model_fn():
    return tff.learning.models.from_keras_model(
      linear.keras_model(),
      tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
      (tf.TensorSpec([None, linear.FEATURES]), tf.TensorSpec([None], tf.int32)),
    )

  values = personal_weights.initial_values(model_fn)
  assert [w.shape for w in values.trainable] == [(linear.FEATURES, linear.CLASSES), (3,)]
  assert all(isinstance(w, np.ndarray) for w in values.trainable)


@pytest.mark.parametrize(
  'build, arguments',
  [
    (models.build_two_fc, ((8, 8, 1),)),
    (models.build_lenet5, ((16, 16, 3),)),
    (models.build_mlp, ((64,), (64, 32))),
    (models.build_resnet18, ((8, 8, 3),)),
  ],
)
def test_masks_are_in_the_order_of_functional_models(build, arguments):
  settings = dict(width_multiplier=0.25) if build is models.build_resnet18 else {}
  model = build(*arguments, family='pfedpara', gamma=0.5, **settings)
  # Each weight another value, so that the order shows.
  model.set_weights([np.full(w.shape, i) for i, w in enumerate(model.get_weights())])
  functional = tff.learning.models.functional_model_from_keras(
    model,
    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    (tf.TensorSpec(model.input_shape), tf.TensorSpec([None], tf.int32)),
  )
  for variable, value in zip(model.trainable_variables, functional.initial_weights[0], strict=True):
    np.testing.assert_array_equal(variable, value)
  assert any(layers.personal_mask(model))
