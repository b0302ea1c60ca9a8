"""Keras layers with factorised kernels: FedPara, pFedPara, low-rank, adapters; and dropout."""

from tff_lowrank.layers.adapters import AdapterConv1D as AdapterConv1D
from tff_lowrank.layers.adapters import AdapterConv2D as AdapterConv2D
from tff_lowrank.layers.adapters import AdapterConv3D as AdapterConv3D
from tff_lowrank.layers.adapters import AdapterDense as AdapterDense
from tff_lowrank.layers.adapters import AdapterDepthwiseConv1D as AdapterDepthwiseConv1D
from tff_lowrank.layers.adapters import AdapterDepthwiseConv2D as AdapterDepthwiseConv2D
from tff_lowrank.layers.adapters import AdapterEmbedding as AdapterEmbedding
from tff_lowrank.layers.adapters import AdapterGRU as AdapterGRU
from tff_lowrank.layers.adapters import AdapterLSTM as AdapterLSTM
from tff_lowrank.layers.adapters import AdapterSeparableConv1D as AdapterSeparableConv1D
from tff_lowrank.layers.adapters import AdapterSeparableConv2D as AdapterSeparableConv2D
from tff_lowrank.layers.conversion import Conversion as Conversion
from tff_lowrank.layers.convert import compose as compose
from tff_lowrank.layers.convert import to_adapters as to_adapters
from tff_lowrank.layers.convert import to_fedpara as to_fedpara
from tff_lowrank.layers.convert import to_low_rank as to_low_rank
from tff_lowrank.layers.dropout import StatelessDropout as StatelessDropout
from tff_lowrank.layers.dropout import dropout_key as dropout_key
from tff_lowrank.layers.factored import personal_mask as personal_mask
from tff_lowrank.layers.factorization import is_personal as is_personal
from tff_lowrank.layers.fedpara import FedParaConv1D as FedParaConv1D
from tff_lowrank.layers.fedpara import FedParaConv2D as FedParaConv2D
from tff_lowrank.layers.fedpara import FedParaConv3D as FedParaConv3D
from tff_lowrank.layers.fedpara import FedParaDense as FedParaDense
from tff_lowrank.layers.fedpara import FedParaDepthwiseConv1D as FedParaDepthwiseConv1D
from tff_lowrank.layers.fedpara import FedParaDepthwiseConv2D as FedParaDepthwiseConv2D
from tff_lowrank.layers.fedpara import FedParaEmbedding as FedParaEmbedding
from tff_lowrank.layers.fedpara import FedParaGRU as FedParaGRU
from tff_lowrank.layers.fedpara import FedParaLSTM as FedParaLSTM
from tff_lowrank.layers.fedpara import FedParaSeparableConv1D as FedParaSeparableConv1D
from tff_lowrank.layers.fedpara import FedParaSeparableConv2D as FedParaSeparableConv2D
from tff_lowrank.layers.jacobian import corrected_loss as corrected_loss
from tff_lowrank.layers.low_rank import LowRankConv1D as LowRankConv1D
from tff_lowrank.layers.low_rank import LowRankConv2D as LowRankConv2D
from tff_lowrank.layers.low_rank import LowRankConv3D as LowRankConv3D
from tff_lowrank.layers.low_rank import LowRankDense as LowRankDense
from tff_lowrank.layers.low_rank import LowRankDepthwiseConv1D as LowRankDepthwiseConv1D
from tff_lowrank.layers.low_rank import LowRankDepthwiseConv2D as LowRankDepthwiseConv2D
from tff_lowrank.layers.low_rank import LowRankEmbedding as LowRankEmbedding
from tff_lowrank.layers.low_rank import LowRankGRU as LowRankGRU
from tff_lowrank.layers.low_rank import LowRankLSTM as LowRankLSTM
from tff_lowrank.layers.low_rank import LowRankSeparableConv1D as LowRankSeparableConv1D
from tff_lowrank.layers.low_rank import LowRankSeparableConv2D as LowRankSeparableConv2D

__all__ = [
  'AdapterConv1D',
  'AdapterConv2D',
  'AdapterConv3D',
  'AdapterDense',
  'AdapterDepthwiseConv1D',
  'AdapterDepthwiseConv2D',
  'AdapterEmbedding',
  'AdapterGRU',
  'AdapterLSTM',
  'AdapterSeparableConv1D',
  'AdapterSeparableConv2D',
  'Conversion',
  'FedParaConv1D',
  'FedParaConv2D',
  'FedParaConv3D',
  'FedParaDense',
  'FedParaDepthwiseConv1D',
  'FedParaDepthwiseConv2D',
  'FedParaEmbedding',
  'FedParaGRU',
  'FedParaLSTM',
  'FedParaSeparableConv1D',
  'FedParaSeparableConv2D',
  'LowRankConv1D',
  'LowRankConv2D',
  'LowRankConv3D',
  'LowRankDense',
  'LowRankDepthwiseConv1D',
  'LowRankDepthwiseConv2D',
  'LowRankEmbedding',
  'LowRankGRU',
  'LowRankLSTM',
  'LowRankSeparableConv1D',
  'LowRankSeparableConv2D',
  'StatelessDropout',
  'compose',
  'corrected_loss',
  'dropout_key',
  'is_personal',
  'personal_mask',
  'to_adapters',
  'to_fedpara',
  'to_low_rank',
]
