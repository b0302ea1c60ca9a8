"""Layer families: which layers they make, and equal budgets."""

import pytest
import tensorflow as tf

from tff_lowrank import layers
from tff_lowrank import models
from tff_lowrank.models import families

BUILDERS = {
  'cnn': models.build_cnn,
  'lenet5': models.build_lenet5,
  'two_fc': models.build_two_fc,
  'vgg16': lambda **k: models.build_vgg16(width_multiplier=0.125, **k),
  'resnet18': lambda **k: models.build_resnet18(width_multiplier=0.125, **k),
  'char_lstm': lambda **k: models.build_char_lstm(hidden_size=64, **k),
  'emnist_cnn': models.build_emnist_cnn,
  'keyword_lstm': models.build_keyword_lstm,
  'word_lstm': lambda **k: models.build_word_lstm(50, hidden_size=64, **k),
  'mlp': lambda **k: models.build_mlp((8, 8, 1), (64, 64), **k),
}


@pytest.mark.parametrize('name', BUILDERS)
def test_every_model_of_every_family(name):
  build = BUILDERS[name]
  original = build()
  sizes = {f: build(family=f, gamma=0.2) for f in families.FAMILIES if f != 'original'}
  for family, model in sizes.items():
    assert model.output_shape == original.output_shape
    kinds = {type(layer).__name__[:7] for layer in model.layers if 'x1' in str(layer.weights)}
    assert kinds == {'LowRank' if family == 'low_rank' else 'FedPara'}
    assert any(layers.personal_mask(model)) == (family == 'pfedpara')
  counts = {family: model.count_params() for family, model in sizes.items()}
  assert counts['fedpara'] == counts['pfedpara'] < original.count_params()
  assert abs(counts['low_rank'] / counts['fedpara'] - 1) < 0.05


@pytest.mark.parametrize('name', BUILDERS)
def test_conversion_agrees_with_the_builders(name):
  """Both put factors into the same layers, but for heads that builders leave plain."""
  built = BUILDERS[name](family='fedpara', gamma=0.2)
  plain = [layer.name for layer in built.layers if type(layer) is tf.keras.layers.Dense]
  plain += [layer.name for layer in built.layers if type(layer) is tf.keras.layers.Embedding]
  converted = layers.to_fedpara(layers.compose(built), gamma=0.2, skip=plain).model
  if name in ('cnn', 'resnet18'):  # Some of its layers have a gamma of their own.
    assert len(converted.weights) == len(built.weights)
  else:
    assert [w.shape for w in converted.weights] == [w.shape for w in built.weights]


def test_tanh_reaches_the_layers():
  model = models.build_lenet5(family='fedpara', gamma=0.2, tanh=True)
  assert model.get_layer(index=1).get_config()['tanh']


def test_refuses_bad_arguments():
  with pytest.raises(ValueError, match="`family` must be one of 'original', 'fedpara'"):
    models.build_cnn(family='svd')
  with pytest.raises(ValueError, match="found family 'original' with gamma 0.1"):
    models.build_cnn(gamma=0.1)
  with pytest.raises(ValueError, match="found family 'low_rank' with gamma None"):
    models.build_cnn(family='low_rank')
  with pytest.raises(ValueError, match=r'`gamma` must be in \[0, 1\], found 1.5'):
    models.build_cnn(family='fedpara', gamma=1.5)
  with pytest.raises(ValueError, match="`tanh` is for family 'fedpara' only"):
    models.build_cnn(family='low_rank', gamma=0.1, tanh=True)
  with pytest.raises(ValueError, match='`width_multiplier` must be finite and above 0'):
    models.build_vgg16(width_multiplier=0)


def test_scaled_widths():
  assert families.scaled((64, 512), 0.25) == (16, 128)
  assert families.scaled((64, 10), 0.01) == (2, 2)
  assert families.scaled((6, 16), 1.0) == (6, 16)
