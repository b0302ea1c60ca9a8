"""Plain low-rank Keras layers, the baseline that FedPara is compared with at equal budget.

Each takes the arguments of the Keras layer of its name, and
  rank: R of the factors; or
  gamma: in [0, 1]: the rank at which a kernel costs what FedPara's costs at this gamma, or as
    close as whole ranks come (equal for matrices, at twice FedPara's rank). Exactly one of them.
  initialization: `'balanced'`, `'he_fan_out'`, `'he_fan_in'`; see `factorization.Factorization`.
  recompute: saves memory by composing kernels anew in the backward pass.
Convolutions are in Tucker-2 form with equal ranks, as in section 3.1 of Hyeon-Woo et al., ICLR 2022
(arXiv 2108.06098, "low-rank", after TKD), or by `form='matrix'` a reshaped low-rank matrix.
Raises TypeError or ValueError for arguments of another type or outside of their range.
"""

from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import factored
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import fedpara
from tff_lowrank.layers import ranks
from tff_lowrank.layers import recurrent


class LowRank(factored.Factored):
  """What makes a factorised layer plainly low-rank; mixed into one."""

  form = 'matrix'

  def __init__(
    self,
    *args: Any,
    rank: int | None = None,
    gamma: float | None = None,
    initialization: str = 'balanced',
    **kwargs: Any,
  ):
    fedpara.check_rank_or_gamma(rank, gamma)
    checks.check_one_of('initialization', initialization, factorization_lib.INITIALIZATIONS)
    super().__init__(*args, **kwargs)
    self._settings = dict(rank=rank, gamma=gamma, initialization=initialization)

  def factorization(self, kernel_shape: tuple[int, ...]) -> factorization_lib.LowRank:
    """The low-rank one, with the rank of this kernel."""
    settings = dict(self._settings)
    rank, gamma = settings.pop('rank'), settings.pop('gamma')
    if rank is None:
      rank = ranks.low_rank_for_gamma(kernel_shape, gamma, self.form)
    return factorization_lib.LowRank(rank=rank, form=self.form, **settings)

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | self._settings


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankDense(LowRank, factored.FactoredDense):
  """keras.layers.Dense with R (inputs + units) weights for its kernel; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankConv2D(fedpara.TuckerOrMatrix, LowRank, factored.FactoredConv2D):
  """keras.layers.Conv2D, of one group, with a kernel in Tucker form; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankEmbedding(LowRank, factored.FactoredEmbedding):
  """keras.layers.Embedding with R (input_dim + output_dim) weights; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankLSTMCell(LowRank, recurrent.FactoredLSTMCell):
  """keras.layers.LSTMCell with both kernels low-rank; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankGRUCell(LowRank, recurrent.FactoredGRUCell):
  """keras.layers.GRUCell with both kernels low-rank; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankLSTM(recurrent.FactoredRNN):
  """keras.layers.LSTM, without cuDNN, with both kernels low-rank; see the module."""

  cell_class = LowRankLSTMCell


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class LowRankGRU(recurrent.FactoredRNN):
  """keras.layers.GRU, without cuDNN, with both kernels low-rank; see the module."""

  cell_class = LowRankGRUCell
