"""Plain low-rank Keras layers, the baseline for FedPara at equal size.

Each takes the arguments of the Keras layer of its name, and
  rank: R of the factors; or
  gamma: in [0, 1]: the rank whose number of parameters is closest to FedPara's at this gamma (equal
    for matrices, at twice FedPara's rank); or
  budget: in (0, 1], the largest size of the factors as a fraction of the kernel's size. Exactly one
    of the three; the rank is at least 1.
  initialization: `'balanced'`, `'he_fan_out'`, `'he_fan_in'`; see `factorization.Factorization`.
  recompute: saves memory by composing kernels again in the backward pass.
Convolutions have the Tucker-2 form with equal ranks, the baseline (TKD) of Hyeon-Woo et al., ICLR
2022, arXiv 2108.06098, or with `form='matrix'` a reshaped low-rank matrix. Depthwise kernels, and
both kernels of a separable convolution, are matrices (`ranks.kernel_view`).
Raises TypeError or ValueError for arguments of the wrong type or out of range.
"""

from tff_lowrank.layers import convolution
from tff_lowrank.layers import factored
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import ranks
from tff_lowrank.layers import recurrent


class LowRank(factored.Sized):
  """A mixin that makes a factorised layer a plain low-rank layer."""

  branches = ranks.LOW_RANK_BRANCHES

  def factorization(self, kernel_shape: tuple[int, ...]) -> factorization_lib.LowRank:
    """The low-rank factorization, with the rank of this kernel."""
    return factorization_lib.LowRank(
      rank=self.rank_of(kernel_shape), form=self.form, initialization=self.initialization
    )


@factored.serializable
class LowRankDense(LowRank, factored.FactoredDense):
  """keras.layers.Dense with R (inputs + units) weights for its kernel; see the module."""


@factored.serializable
class LowRankConv1D(convolution.TuckerOrMatrix, LowRank, convolution.FactoredConv1D):
  """keras.layers.Conv1D with a kernel in Tucker form; see the module."""


@factored.serializable
class LowRankConv2D(convolution.TuckerOrMatrix, LowRank, convolution.FactoredConv2D):
  """keras.layers.Conv2D with a kernel in Tucker form; see the module."""


@factored.serializable
class LowRankConv3D(convolution.TuckerOrMatrix, LowRank, convolution.FactoredConv3D):
  """keras.layers.Conv3D with a kernel in Tucker form; see the module."""


@factored.serializable
class LowRankDepthwiseConv1D(LowRank, convolution.FactoredDepthwiseConv1D):
  """keras.layers.DepthwiseConv1D with R (window + outputs) weights; see the module."""


@factored.serializable
class LowRankDepthwiseConv2D(LowRank, convolution.FactoredDepthwiseConv2D):
  """keras.layers.DepthwiseConv2D with R (window + outputs) weights; see the module."""


@factored.serializable
class LowRankSeparableConv1D(LowRank, convolution.FactoredSeparableConv1D):
  """keras.layers.SeparableConv1D with both kernels low-rank; see the module."""


@factored.serializable
class LowRankSeparableConv2D(LowRank, convolution.FactoredSeparableConv2D):
  """keras.layers.SeparableConv2D with both kernels low-rank; see the module."""


@factored.serializable
class LowRankEmbedding(LowRank, factored.FactoredEmbedding):
  """keras.layers.Embedding with R (input_dim + output_dim) weights; see the module."""


@factored.serializable
class LowRankLSTMCell(LowRank, recurrent.FactoredLSTMCell):
  """keras.layers.LSTMCell with both kernels low-rank; see the module."""


@factored.serializable
class LowRankGRUCell(LowRank, recurrent.FactoredGRUCell):
  """keras.layers.GRUCell with both kernels low-rank; see the module."""


@factored.serializable
class LowRankLSTM(recurrent.FactoredRNN):
  """keras.layers.LSTM, without cuDNN, with both kernels low-rank; see the module."""

  cell_class = LowRankLSTMCell


@factored.serializable
class LowRankGRU(recurrent.FactoredRNN):
  """keras.layers.GRU, without cuDNN, with both kernels low-rank; see the module."""

  cell_class = LowRankGRUCell
