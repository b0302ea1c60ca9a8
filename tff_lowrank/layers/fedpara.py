"""FedPara and pFedPara: Keras layers whose kernels are Hadamard products of low-rank factors.

Hyeon-Woo, Ye-Bin, Oh: FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
Learning, ICLR 2022, arXiv 2108.06098. Kernels are W1 * W2 (Propositions 1 and 3), or for the
personal form W1 * (W2 + 1) (Algorithm 2); see `factorization`. For grouped, depthwise and separable
convolutions, see `ranks.kernel_view`.

Each layer takes the arguments of the Keras layer of its name, and
  rank: R of the factors; or
  gamma: in [0, 1], which decides the rank of each kernel (see `ranks`); or
  budget: in (0, 1], the largest size of the factors as a fraction of the kernel's size. Exactly one
    of the three; the rank is at least 1.
  personal: pFedPara's form. The factors of W2 have `is_personal` names and stay at the client.
  tanh: the non-linearity of the paper's FedPara (not pFedPara) experiments; no bound on the rank.
  initialization: `'balanced'`, `'he_fan_out'`, `'he_fan_in'`; see `factorization.Factorization`.
  recompute: saves memory by composing kernels again in the backward pass.
Raises TypeError or ValueError for arguments of the wrong type or out of range.
"""

from typing import Any

from tff_lowrank import checks
from tff_lowrank.layers import convolution
from tff_lowrank.layers import factored
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import ranks
from tff_lowrank.layers import recurrent


class FedPara(factored.Sized):
  """A mixin that makes a factorised layer a FedPara layer."""

  branches = ranks.FEDPARA_BRANCHES

  def __init__(self, *args: Any, personal: bool = False, tanh: bool = False, **kwargs: Any):
    for name, value in (('personal', personal), ('tanh', tanh)):
      checks.check_type(name, value, bool)
    super().__init__(*args, **kwargs)
    self.personal = personal
    self.tanh = tanh

  @property
  def settings(self) -> dict[str, Any]:
    return super().settings | dict(personal=self.personal, tanh=self.tanh)

  def factorization(self, kernel_shape: tuple[int, ...]) -> factorization_lib.Hadamard:
    """FedPara's factorization, with the rank of this kernel."""
    return factorization_lib.Hadamard(
      rank=self.rank_of(kernel_shape),
      form=self.form,
      initialization=self.initialization,
      personal=self.personal,
      tanh=self.tanh,
    )


@factored.serializable
class FedParaDense(FedPara, factored.FactoredDense):
  """keras.layers.Dense with 2 R (inputs + units) weights for its kernel; see the module."""


@factored.serializable
class FedParaConv1D(convolution.TuckerOrMatrix, FedPara, convolution.FactoredConv1D):
  """keras.layers.Conv1D with Proposition 3's kernel (or 1's); see the module."""


@factored.serializable
class FedParaConv2D(convolution.TuckerOrMatrix, FedPara, convolution.FactoredConv2D):
  """keras.layers.Conv2D with Proposition 3's kernel (or 1's); see the module."""


@factored.serializable
class FedParaConv3D(convolution.TuckerOrMatrix, FedPara, convolution.FactoredConv3D):
  """keras.layers.Conv3D with Proposition 3's kernel (or 1's); see the module."""


@factored.serializable
class FedParaDepthwiseConv1D(FedPara, convolution.FactoredDepthwiseConv1D):
  """keras.layers.DepthwiseConv1D with 2 R (window + outputs) weights; see the module."""


@factored.serializable
class FedParaDepthwiseConv2D(FedPara, convolution.FactoredDepthwiseConv2D):
  """keras.layers.DepthwiseConv2D with 2 R (window + outputs) weights; see the module."""


@factored.serializable
class FedParaSeparableConv1D(FedPara, convolution.FactoredSeparableConv1D):
  """keras.layers.SeparableConv1D with both kernels factorised; see the module."""


@factored.serializable
class FedParaSeparableConv2D(FedPara, convolution.FactoredSeparableConv2D):
  """keras.layers.SeparableConv2D with both kernels factorised; see the module."""


@factored.serializable
class FedParaEmbedding(FedPara, factored.FactoredEmbedding):
  """keras.layers.Embedding with 2 R (input_dim + output_dim) weights; see the module."""


@factored.serializable
class FedParaLSTMCell(FedPara, recurrent.FactoredLSTMCell):
  """keras.layers.LSTMCell with both kernels factorised; see the module."""


@factored.serializable
class FedParaGRUCell(FedPara, recurrent.FactoredGRUCell):
  """keras.layers.GRUCell with both kernels factorised; see the module."""


@factored.serializable
class FedParaLSTM(recurrent.FactoredRNN):
  """keras.layers.LSTM, without cuDNN, with both kernels factorised; see the module."""

  cell_class = FedParaLSTMCell


@factored.serializable
class FedParaGRU(recurrent.FactoredRNN):
  """keras.layers.GRU, without cuDNN, with both kernels factorised; see the module."""

  cell_class = FedParaGRUCell
