"""Keras layers of factorised kernels: FedPara, pFedPara, plain low-rank, adapters."""

from tff_lowrank.layers.adapters import AdapterConv2D as AdapterConv2D
from tff_lowrank.layers.adapters import AdapterDense as AdapterDense
from tff_lowrank.layers.adapters import AdapterEmbedding as AdapterEmbedding
from tff_lowrank.layers.adapters import AdapterGRU as AdapterGRU
from tff_lowrank.layers.adapters import AdapterLSTM as AdapterLSTM
from tff_lowrank.layers.convert import Conversion as Conversion
from tff_lowrank.layers.convert import compose as compose
from tff_lowrank.layers.convert import to_adapters as to_adapters
from tff_lowrank.layers.convert import to_fedpara as to_fedpara
from tff_lowrank.layers.convert import to_low_rank as to_low_rank
from tff_lowrank.layers.factored import personal_mask as personal_mask
from tff_lowrank.layers.factorization import is_personal as is_personal
from tff_lowrank.layers.fedpara import FedParaConv2D as FedParaConv2D
from tff_lowrank.layers.fedpara import FedParaDense as FedParaDense
from tff_lowrank.layers.fedpara import FedParaEmbedding as FedParaEmbedding
from tff_lowrank.layers.fedpara import FedParaGRU as FedParaGRU
from tff_lowrank.layers.fedpara import FedParaLSTM as FedParaLSTM
from tff_lowrank.layers.jacobian import corrected_loss as corrected_loss
from tff_lowrank.layers.low_rank import LowRankConv2D as LowRankConv2D
from tff_lowrank.layers.low_rank import LowRankDense as LowRankDense
from tff_lowrank.layers.low_rank import LowRankEmbedding as LowRankEmbedding
from tff_lowrank.layers.low_rank import LowRankGRU as LowRankGRU
from tff_lowrank.layers.low_rank import LowRankLSTM as LowRankLSTM
