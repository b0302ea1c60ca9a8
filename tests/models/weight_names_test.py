import tensorflow as tf

from tff_lowrank import models
from tff_lowrank.models import weight_names


def build(named=None):
  return tf.keras.Sequential(
    [
      tf.keras.layers.Dense(4, input_shape=(3,)),
      tf.keras.layers.Dense(4, name=named),
      tf.keras.layers.Dense(2),
    ]
  )


def test_names_are_those_of_layers_and_weights():
  expected = ['dense/kernel', 'dense/bias', 'dense_1/kernel', 'dense_1/bias']
  for _ in range(2):  # However many layers were built before.
    assert weight_names.trainable(build()) == [*expected, 'dense_2/kernel', 'dense_2/bias']
  assert weight_names.trainable(build('middle')) == [
    'dense/kernel', 'dense/bias', 'middle/kernel', 'middle/bias', 'dense_1/kernel', 'dense_1/bias',
  ]  # fmt: skip
  assert 'block_7/kernel' in weight_names.trainable(build('block_7'))


def test_all_are_different():
  for build_model in (models.build_lenet5, models.build_resnet18, models.build_keyword_lstm):
    arguments = ((5, 3), 4) if build_model is models.build_keyword_lstm else ()
    for family in (dict(family='original'), dict(family='fedpara', gamma=0.5)):
      model = build_model(*arguments, **family)
      names = weight_names.trainable(model)
      assert len(set(names)) == len(names) == len(model.trainable_weights)
  shared = tf.keras.layers.Dense(3, name='same')
  x = tf.keras.Input((3,))
  names = weight_names.trainable(tf.keras.Model(x, shared(shared(x))))
  assert names == ['same/kernel', 'same/bias']
