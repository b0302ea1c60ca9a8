"""ResNet-18: counts, and which layers have gamma 1."""

import tensorflow as tf

from tff_lowrank import models


def test_original_count():
  # As the original with batch normalisation: convolutions 11,159,232, normalisations 2 * 4800,
  # dense 5130.
  assert 11_159_232 + 9600 + 5130 == 11_173_962
  assert models.build_resnet18().count_params() == 11_173_962


def test_layers_with_gamma_one():
  model = models.build_resnet18(family='fedpara', gamma=0.1, width_multiplier=0.25)
  convolutions = [layer for layer in model.layers if 'conv' in layer.name]
  assert len(convolutions) == 20
  gammas = [layer.get_config()['gamma'] for layer in convolutions]
  assert gammas[:2] == [1.0, 1.0] and sorted(gammas) == [0.1] * 15 + [1.0] * 5
  ones = [layer for layer in convolutions if layer.kernel_size == (1, 1)]
  assert len(ones) == 3 and all(layer.get_config()['gamma'] == 1 for layer in ones)


def test_shapes():
  model = models.build_resnet18((24, 24, 1), 5, width_multiplier=0.125, groups=4)
  assert model(tf.zeros([2, 24, 24, 1])).shape == (2, 5)
  assert {layer.strides for layer in model.layers if 'conv' in layer.name} == {(1, 1), (2, 2)}
