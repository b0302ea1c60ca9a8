"""The layer families of the models: plain, FedPara, low-rank, pFedPara."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from tff_lowrank import checks
from tff_lowrank import layers
from tff_lowrank.layers import ranks

FAMILIES = ('original', 'fedpara', 'low_rank', 'pfedpara')

_PREFIX = dict(fedpara='FedPara', pfedpara='FedPara', low_rank='LowRank')


@dataclasses.dataclass(frozen=True)
class LayerFamily:
  """Applies layers of one family to Keras tensors.

  name: one of `FAMILIES`.
  gamma: in [0, 1]: FedPara's rank hyper-parameter; None for `'original'` only. `'low_rank'` has as
    many parameters as FedPara, layer by layer.
  tanh: FedPara's non-linearity (family `'fedpara'` only).
  kernel_initializer: for plain Dense and Conv2D layers, including layers that stay plain because
    factors would not make them smaller. The paper uses He's; factorised kernels start with the
    same variance.
  rank: the rank of all factors, instead of that from gamma, even if layers do not get smaller.
  """

  name: str
  gamma: float | None = None
  tanh: bool = False
  kernel_initializer: str = 'he_normal'
  rank: int | None = None

  def __post_init__(self) -> None:
    checks.check_one_of('family', self.name, FAMILIES)
    if (self.gamma is None) != (self.name == 'original'):
      raise ValueError(
        '`gamma` must be given for, and only for, a factorised family; found family '
        f'{self.name!r} with gamma {self.gamma}.'
      )
    if self.gamma is not None:
      checks.check_in_range('gamma', self.gamma, 0, 1)
    if self.tanh and self.name != 'fedpara':
      raise ValueError(f"`tanh` is for family 'fedpara' only, found {self.name!r}.")

  def with_gamma(self, gamma: float) -> 'LayerFamily':
    """The family with another gamma; the original family is returned unchanged."""
    return self if self.name == 'original' else dataclasses.replace(self, gamma=gamma)

  def dense(self, x: tf.Tensor, units: int, **kwargs: Any) -> tf.Tensor:
    """Applies a Dense layer to [batch, ..., inputs]."""
    return self._apply('Dense', x, (x.shape[-1], units), units, **kwargs)

  def conv2d(self, x: tf.Tensor, filters: int, kernel_size: int, **kwargs: Any) -> tf.Tensor:
    """Applies a Conv2D layer, in Tucker form (Prop. 3), to [batch, rows, columns, channels]."""
    shape = (kernel_size, kernel_size, x.shape[-1], filters)
    return self._apply('Conv2D', x, shape, filters, kernel_size, **kwargs)

  def lstm(self, x: tf.Tensor, units: int, **kwargs: Any) -> tf.Tensor:
    """Applies an LSTM layer to [batch, time, inputs]."""
    if self.name == 'original':
      return tf.keras.layers.LSTM(units, **kwargs)(x)
    return self._factored('LSTM')(units, **self._arguments(), **kwargs)(x)

  def plain(self) -> 'LayerFamily':
    """The original family with the initialisation of this one, for layers without factors."""
    return LayerFamily('original', kernel_initializer=self.kernel_initializer)

  def _apply(
    self, kind: str, x: tf.Tensor, kernel_shape: tuple[int, ...], *args: Any, **kwargs: Any
  ) -> tf.Tensor:
    form = 'tucker' if kind == 'Conv2D' else 'matrix'
    is_small = self.rank is None and not ranks.is_worthwhile(kernel_shape, form)
    if self.name == 'original' or is_small:
      plain = getattr(tf.keras.layers, kind)
      return plain(*args, kernel_initializer=self.kernel_initializer, **kwargs)(x)
    return self._factored(kind)(*args, **self._arguments(), **kwargs)(x)

  def _factored(self, kind: str) -> type[tf.keras.layers.Layer]:
    return getattr(layers, _PREFIX[self.name] + kind)

  def _arguments(self) -> dict[str, Any]:
    size = dict(gamma=self.gamma) if self.rank is None else dict(rank=self.rank)
    if self.name == 'low_rank':
      return size
    return dict(size, personal=self.name == 'pfedpara', tanh=self.tanh)


def scaled(widths: tuple[int, ...], multiplier: float) -> tuple[int, ...]:
  """Each width times `multiplier`, rounded to an even number of at least 2."""
  if not 0 < multiplier < math.inf:
    raise ValueError(f'`width_multiplier` must be finite and above 0, found {multiplier}.')
  return tuple(max(2, 2 * round(width * multiplier / 2)) for width in widths)
