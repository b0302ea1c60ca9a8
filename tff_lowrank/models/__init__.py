"""Keras models of the papers."""

from tff_lowrank.models.cnn import build_cnn as build_cnn
from tff_lowrank.models.emnist_cnn import build_emnist_cnn as build_emnist_cnn
from tff_lowrank.models.keyword_lstm import build_keyword_lstm as build_keyword_lstm
from tff_lowrank.models.lenet import build_lenet5 as build_lenet5
from tff_lowrank.models.lstm import build_char_lstm as build_char_lstm
from tff_lowrank.models.mlp import build_mlp as build_mlp
from tff_lowrank.models.resnet import build_resnet18 as build_resnet18
from tff_lowrank.models.two_fc import build_two_fc as build_two_fc
from tff_lowrank.models.vgg import build_vgg16 as build_vgg16
from tff_lowrank.models.word_lstm import build_word_lstm as build_word_lstm

__all__ = [
  'build_char_lstm',
  'build_cnn',
  'build_emnist_cnn',
  'build_keyword_lstm',
  'build_lenet5',
  'build_mlp',
  'build_resnet18',
  'build_two_fc',
  'build_vgg16',
  'build_word_lstm',
]
