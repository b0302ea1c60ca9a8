"""Keras models of the papers."""

from tff_lowrank.models.cnn import build_cnn as build_cnn
from tff_lowrank.models.lenet import build_lenet5 as build_lenet5
from tff_lowrank.models.mlp import build_mlp as build_mlp
