import numpy as np
import tensorflow as tf

from tff_lowrank.models import copies
from tff_lowrank.models import losses

layers = tf.keras.layers


def build(is_nested_frozen=False):
  """Frozen are a layer in front and one in the middle, and perhaps a nested model."""
  nested = tf.keras.Sequential([tf.keras.Input((4,)), layers.Dense(4)])
  nested.trainable = not is_nested_frozen
  first, middle = layers.Dense(4, trainable=False), layers.Dense(4, trainable=False)
  return tf.keras.Sequential(
    [
      tf.keras.Input((4,)), first, layers.Dense(4, activation='relu'), layers.Dropout(0.5), middle,
      nested, layers.Dense(3),
    ]
  )  # fmt: skip


def test_tells_frozen_layers_from_variables_that_never_train():
  assert copies.has_frozen(build())
  assert not copies.has_frozen(tf.keras.Sequential([tf.keras.Input((4,)), layers.Dense(3)]))
  normalised = tf.keras.Sequential([tf.keras.Input((4,)), layers.BatchNormalization()])
  assert normalised.non_trainable_variables and not copies.has_frozen(normalised)


def created_trainable(make):
  """How many variables of a model in a graph, as TFF makes it, are created as ones that train."""
  with tf.Graph().as_default():
    copy = make()
    assert len(copy.variables) == 10
    return sum(variable.trainable for variable in copy.variables)


def test_variables_of_frozen_layers_are_created_as_such():
  for is_nested_frozen, count in ((False, 6), (True, 4)):
    clone = copies.cloner(build(is_nested_frozen))
    assert created_trainable(clone) == created_trainable(clone) == count


def test_the_order_of_creation():
  # A nested model comes first.
  assert copies.creation_order(build()) == ([2, 3, 0, 1, 4, 5], [0, 1, 2, 3])
  assert copies.creation_order(build(True)) == ([0, 1, 2, 3], [4, 5, 0, 1, 2, 3])
  plain = tf.keras.Sequential([tf.keras.Input((4,)), layers.Dense(3)])
  assert copies.creation_order(plain) == ([0, 1], [])


def test_a_regulariser_of_a_model_with_frozen_layers():
  first = layers.Dense(4, trainable=False)
  model = tf.keras.Sequential(
    [tf.keras.Input((4,)), first, layers.Dense(3, kernel_regularizer='l2')]
  )
  make = losses.with_own_losses(model)
  np.testing.assert_array_equal(make().get_weights()[2], model.get_weights()[2])
  with tf.Graph().as_default():
    assert len(make().trainable_variables) == 2
