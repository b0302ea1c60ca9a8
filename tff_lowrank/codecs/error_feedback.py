"""Error feedback: the compression error of a message is added to the next update."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tff_lowrank.codecs import codec


@dataclasses.dataclass(frozen=True)
class ErrorFeedback(codec.InnerMessages):
  """Compresses u = x + e, the update plus the residual. It decodes to v, and e becomes u - v.

  So the sum of all decoded updates, plus the residual, is the sum of all updates. With LBGM, the
  order of nesting decides what the residual holds:
    `LookBack(ErrorFeedback(TopK()))`  the error of top-K, also in rounds that send a coefficient;
    `ErrorFeedback(LookBack(TopK()))`  the error of top-K and of the look-back coefficient.

  Seide et al., 2014; Karimireddy et al., 2019, https://arxiv.org/abs/1901.09847, algorithm 2. The
  memory is an `OrderedDict` of `residual` (the value's tensors) and `inner`. The message is the
  inner codec's.
  """

  inner: codec.Codec

  name: ClassVar[str] = 'error_feedback'

  kept: ClassVar[str] = 'residual'

  def __post_init__(self) -> None:
    codec.resolve_inner(self)
    if isinstance(self.inner, ErrorFeedback) or not self.inner.traits.corrigible:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}: error feedback needs a codec whose '
        f'error is smaller than the value, and {self.inner} is not one, so the residual could '
        'grow without bound.'
      )

  @property
  def traits(self) -> codec.Traits:
    inner = self.inner.traits
    return codec.Traits(
      has_memory=True,
      variable_size=inner.variable_size,
      individual=inner.individual,
      needs_model=inner.needs_model,
      fixed_shape=inner.fixed_shape,
    )

  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    total = [x + e for x, e in zip(codec.tensors_of(value), memory['residual'], strict=True)]
    inner = self.inner.encode(memory['inner'], total, seed, reference)
    decoded = self.inner.decode(memory['inner'], inner.message)
    residual = [u - v for u, v in zip(total, decoded, strict=True)]
    return inner._replace(memory=self.memory_of(residual, inner.memory))

  def decode(self, memory: Any, message: Any) -> list[tf.Tensor]:
    return self.inner.decode(memory['inner'], message)

  def follow(self, memory: Any, message: Any) -> Any:
    inner = self.inner.follow(memory['inner'], message)
    return self.memory_of(memory['residual'], inner)
