"""FedPara and pFedPara: Keras layers that train low-rank Hadamard factors of their kernels.

Hyeon-Woo, Ye-Bin, Oh: FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
Learning, ICLR 2022, arXiv 2108.06098. Kernels are W1 * W2 (Propositions 1 and 3), or for the
personal form W1 * (W2 + 1) (Algorithm 2); see `factorization`.

Each layer takes the arguments of the Keras layer of its name, and
  rank: R of the factors; or
  gamma: in [0, 1], from which the rank of each kernel follows (`ranks`). Exactly one of them.
  personal: pFedPara's form. Its W2's weights have `is_personal` names and stay at the client.
  tanh: the non-linearity of the paper's FedPara (not pFedPara) experiments; voids the rank bound.
  initialization: `'balanced'`, `'he_fan_out'`, `'he_fan_in'`; see `factorization.Factorization`.
    Under `tanh` the composed kernel starts a little smaller than balanced.
  recompute: saves memory by composing kernels anew in the backward pass.
Raises TypeError or ValueError for arguments of another type or outside of their range.
"""

from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank.layers import factored
from tff_lowrank.layers import factorization as factorization_lib
from tff_lowrank.layers import ranks
from tff_lowrank.layers import recurrent


def check_rank_or_gamma(rank: int | None, gamma: float | None) -> None:
  """Raises unless exactly one is given, and in its range."""
  if (rank is None) == (gamma is None):
    raise ValueError(f'Exactly one of `rank` and `gamma` must be given, found {rank} and {gamma}.')
  if rank is not None:
    checks.check_at_least('rank', rank, 1)
  else:
    checks.check_in_range('gamma', gamma, 0, 1)


class FedPara(factored.Factored):
  """What makes a factorised layer FedPara's; mixed into one."""

  form = 'matrix'

  def __init__(
    self,
    *args: Any,
    rank: int | None = None,
    gamma: float | None = None,
    personal: bool = False,
    tanh: bool = False,
    initialization: str = 'balanced',
    **kwargs: Any,
  ):
    check_rank_or_gamma(rank, gamma)
    checks.check_one_of('initialization', initialization, factorization_lib.INITIALIZATIONS)
    for name, value in (('personal', personal), ('tanh', tanh)):
      checks.check_type(name, value, bool)
    super().__init__(*args, **kwargs)
    self._settings = dict(
      rank=rank, gamma=gamma, personal=personal, tanh=tanh, initialization=initialization
    )

  def factorization(self, kernel_shape: tuple[int, ...]) -> factorization_lib.Hadamard:
    """FedPara's, with the rank of this kernel."""
    settings = dict(self._settings)
    rank, gamma = settings.pop('rank'), settings.pop('gamma')
    if rank is None:
      rank = ranks.rank_for_gamma(kernel_shape, gamma, self.form)
    return factorization_lib.Hadamard(rank=rank, form=self.form, **settings)

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | self._settings


class TuckerOrMatrix:
  """Adds `form` to a convolution's arguments, ahead of the factorisation's.

  form: `'tucker'` for Tucker factors (Proposition 3 in FedPara), `'matrix'` for those of the
    matrix [outputs, inputs x height x width] (Proposition 1).
  """

  def __init__(self, *args: Any, form: str = 'tucker', **kwargs: Any):
    checks.check_one_of('form', form, ranks.FORMS)
    super().__init__(*args, **kwargs)
    self.form = form

  def get_config(self) -> dict[str, Any]:
    return super().get_config() | dict(form=self.form)


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaDense(FedPara, factored.FactoredDense):
  """keras.layers.Dense with 2 R (inputs + units) weights for its kernel; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaConv2D(TuckerOrMatrix, FedPara, factored.FactoredConv2D):
  """keras.layers.Conv2D, of one group, with Proposition 3's kernel (or 1's); see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaEmbedding(FedPara, factored.FactoredEmbedding):
  """keras.layers.Embedding with 2 R (input_dim + output_dim) weights; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaLSTMCell(FedPara, recurrent.FactoredLSTMCell):
  """keras.layers.LSTMCell with both kernels factorised; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaGRUCell(FedPara, recurrent.FactoredGRUCell):
  """keras.layers.GRUCell with both kernels factorised; see the module."""


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaLSTM(recurrent.FactoredRNN):
  """keras.layers.LSTM, without cuDNN, with both kernels factorised; see the module."""

  cell_class = FedParaLSTMCell


@tf.keras.saving.register_keras_serializable(factored.PACKAGE)
class FedParaGRU(recurrent.FactoredRNN):
  """keras.layers.GRU, without cuDNN, with both kernels factorised; see the module."""

  cell_class = FedParaGRUCell
