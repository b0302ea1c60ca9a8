"""EF21: sends what is new since the last message, compressed."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tff_lowrank.codecs import codec
from tff_lowrank.codecs import top_k


@dataclasses.dataclass(frozen=True)
class EF21(codec.InnerMessages):
  """Both sides keep g, an estimate of a client's update x; C(x - g) is sent, and added to g.

  What is decoded is the new g. Unlike `ErrorFeedback`, which adds up all that was left out, this
  compresses a difference that goes to 0 as updates settle, and what was left out is not sent later
  on where the next update does not have it.

  inner: C, a contraction.

  Richtarik, Sokolov, Fatkhullin: EF21: A New, Simpler, Theoretically Better, and Practically Faster
  Error Feedback, NeurIPS 2021, https://arxiv.org/abs/2106.05203, algorithm 2, where x is a gradient
  and all clients take part. g is 0 at first, so that the first message is C(x). Here a client that
  is away keeps its g, and the mean is of those that take part. The memory is an `OrderedDict` of
  `estimate` (the value's tensors) and `inner`; the server keeps a model a client. The message is
  the inner codec's.
  """

  inner: codec.Codec = dataclasses.field(default_factory=top_k.TopK)

  name: ClassVar[str] = 'ef21'

  kept: ClassVar[str] = 'estimate'

  def __post_init__(self) -> None:
    codec.resolve_inner(self)
    if not self.inner.traits.contraction:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}: it needs a codec whose error is smaller '
        f'than the value, and {self.inner} is not one, so the estimate could go astray.'
      )
    if self.inner.traits.needs_model:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}, which compares an update with the model, '
        'and here would get a difference of updates.'
      )

  @property
  def traits(self) -> codec.Traits:
    inner = self.inner.traits
    return codec.Traits(
      has_memory=True,
      variable_size=inner.variable_size,
      individual=True,
      fixed_shape=inner.fixed_shape,
    )

  def encode(
    self, memory: Any, value: Any, seed: tf.Tensor, reference: codec.Reference | None = None
  ) -> codec.Encoded:
    pairs = zip(codec.tensors_of(value), memory['estimate'], strict=True)
    inner = self.inner.encode(memory['inner'], [x - g for x, g in pairs], seed, reference)
    estimate = self.decode(memory, inner.message)
    return inner._replace(memory=self.memory_of(estimate, inner.memory))

  def decode(self, memory: Any, message: Any) -> list[tf.Tensor]:
    decoded = self.inner.decode(memory['inner'], message)
    return [g + c for g, c in zip(memory['estimate'], decoded, strict=True)]

  def follow(self, memory: Any, message: Any) -> Any:
    inner = self.inner.follow(memory['inner'], message)
    return self.memory_of(self.decode(memory, message), inner)
