import pytest
import tensorflow as tf

from tff_lowrank import layers as lowrank
from tff_lowrank.models import requirements

layers = tf.keras.layers


def model(*parts, shape=(4,)):
  return tf.keras.Sequential([layers.InputLayer(shape), *parts], name='mine')


@pytest.mark.parametrize(
  'norm', [layers.BatchNormalization, layers.experimental.SyncBatchNormalization]
)
def test_batch_normalisation_is_refused_by_name_wherever_it_is(norm):
  plain = model(layers.Dense(3), norm(name='bn_7'))
  nested = model(model(layers.Dense(3), norm(name='bn_7')), layers.Dense(2))
  for bad in (plain, nested):
    with pytest.raises(ValueError, match="Layer 'bn_7' of model 'mine' .*GroupNormalization"):
      requirements.check_trainable(bad)
  requirements.check_trainable(model(layers.Dense(4), layers.GroupNormalization(2)))


@pytest.mark.parametrize(
  'part',
  [
    layers.Dropout(0.5, name='mine_7'),
    layers.AlphaDropout(0.5, name='mine_7'),
    layers.GaussianNoise(0.1, name='mine_7'),
    layers.GRU(2, dropout=0.1, name='mine_7'),
    layers.RandomFlip(name='mine_7'),
  ],
)
def test_random_numbers_that_would_not_repeat_are_refused_by_name(part):
  shape = dict(GRU=(2, 4), RandomFlip=(2, 2, 4)).get(type(part).__name__, (4,))
  plain = model(part, layers.Dense(2), shape=shape)
  nested = model(model(part, shape=shape), layers.Dense(2), shape=shape)
  for bad in (plain, nested):
    with pytest.raises(ValueError, match="'mine_7' of model 'mine' draws .*StatelessDropout"):
      requirements.check_trainable(bad)


@pytest.mark.parametrize('rnn', [layers.SimpleRNN, layers.LSTM])
def test_dropout_of_recurrent_layers_is_refused(rnn):
  bad = model(rnn(2, recurrent_dropout=0.1), layers.Dense(2), shape=(2, 4))
  with pytest.raises(ValueError, match="model 'mine' .*not repeatable.*StatelessDropout"):
    requirements.check_trainable(bad)


def test_random_layers_that_draw_nothing_are_accepted():
  parts = layers.Dropout(0), layers.GaussianNoise(0), layers.LSTM(2)
  requirements.check_trainable(model(*parts, layers.Dense(2), shape=(2, 4)))
  requirements.check_trainable(model(lowrank.StatelessDropout(0.5), layers.Dense(2)))


def test_a_model_that_learns_nothing_is_refused():
  fixed = model(layers.Dense(3))
  fixed.trainable = False
  for bad in (model(layers.Flatten()), fixed):
    with pytest.raises(ValueError, match="Model 'mine' has no trainable variables"):
      requirements.check_trainable(bad)


def check(model, example=(4,), label=(), max_label=2):
  requirements.check_shapes(model, example, label, max_label)


def test_models_that_fit():
  check(model(layers.Dense(3)))
  check(model(layers.Dense(5)))  # Classes that this data set has no example of.
  check(model(layers.Embedding(9, 2), layers.Dense(3), shape=(None,)), (7,), (7,))
  check(model(layers.Conv2D(3, 2), layers.GlobalMaxPool2D(), shape=(None, None, 1)), (8, 8, 1))


def two_outputs():
  inputs = tf.keras.Input((4,))
  return tf.keras.Model(inputs, [layers.Dense(3)(inputs)] * 2, name='mine')


def two_inputs():
  inputs = [tf.keras.Input((4,)), tf.keras.Input((4,))]
  return tf.keras.Model(inputs, layers.Dense(3)(layers.add(inputs)), name='mine')


@pytest.mark.parametrize(
  'build, message',
  [
    (lambda: model(layers.Dense(2)), r'output of shape \(None, 2\), but labels up to 2 need'),
    (lambda: model(layers.Dense(3), shape=(5,)), r'takes input of shape \(None, 5\).*\(None, 4\)'),
    (lambda: model(layers.Dense(3), shape=(2, 4)), r'takes input of shape \(None, 2, 4\)'),
    (lambda: model(layers.Reshape((2, 2)), layers.Dense(3)), r'output of shape \(None, 2, 3\)'),
    (two_outputs, r'output of shape \['),
    (two_inputs, r'takes input of shape \['),
  ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(build, message):
  with pytest.raises(ValueError, match=f"Model 'mine' .*{message}"):
    check(build())


def test_models_that_no_one_can_copy_are_refused():
  class Mine(tf.keras.Model):
    def call(self, inputs):
      return inputs

  with pytest.raises(
    ValueError, match="Model 'mine' must be Sequential or functional, found a Mine"
  ):
    requirements.check_trainable(Mine(name='mine'))
  with pytest.raises(ValueError, match="Model 'mine' does not know the shape of its input"):
    requirements.check_trainable(tf.keras.Sequential([layers.Dense(3)], name='mine'))


def test_outputs_that_are_numbers():
  check(model(layers.Dense(3)), label=(3,), max_label=None)
  for label in ((2,), ()):
    with pytest.raises(ValueError, match=r'output of shape \(None, 3\), but the labels have'):
      check(model(layers.Dense(3)), label=label, max_label=None)
  with pytest.raises(ValueError, match=r'output of shape \['):
    check(two_outputs(), label=(3,), max_label=None)


@pytest.mark.parametrize(
  'last, found',
  [
    (lambda: [layers.Dense(3, 'softmax')], 'softmax'),
    (lambda: [layers.Dense(3, 'sigmoid')], 'sigmoid'),
    (lambda: [layers.Dense(3), layers.Softmax()], 'softmax'),
    (lambda: [layers.Dense(3), layers.Activation(tf.nn.softmax)], 'softmax'),
    (
      lambda: [layers.Reshape((2, 2)), layers.TimeDistributed(layers.Dense(3, 'softmax'))],
      'softmax',
    ),
  ],
)
def test_probabilities_are_no_logits(last, found):
  for bad in (model(*last()), model(layers.Dense(4), model(*last()))):
    with pytest.raises(ValueError, match=f"Model 'mine' ends in a {found}, in layer .* logits"):
      requirements.check_returns_logits(bad)
  requirements.check_returns_logits(model(layers.Dense(3, 'softmax'), layers.Dense(3)))
  requirements.check_returns_logits(model(layers.Dense(3, 'relu')))
