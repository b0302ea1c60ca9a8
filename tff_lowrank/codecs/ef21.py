"""EF21: sends the compressed change since the last message."""

import dataclasses
from typing import Any, ClassVar

import tensorflow as tf

from tff_lowrank.codecs import codec
from tff_lowrank.codecs import top_k


@dataclasses.dataclass(frozen=True)
class EF21(codec.InnerMessages):
  """Keeps an estimate g of a client's update x on both sides; sends C(x - g), and adds it to g.

  The decoded update is the new g. `ErrorFeedback` sends later all that compression removed. EF21
  does not: it compresses the difference to the current update, which goes to 0 as updates converge.

  inner: C, a contraction.

  Richtarik, Sokolov, Fatkhullin: EF21: A New, Simpler, Theoretically Better, and Practically Faster
  Error Feedback, NeurIPS 2021, https://arxiv.org/abs/2106.05203, algorithm 2. There x is a gradient
  and all clients take part. Here a client that does not take part keeps its g, and the mean is over
  the clients that do. At first g is 0, so the first message is C(x). The memory is an `OrderedDict`
  of `estimate` (the value's tensors) and `inner`; the server keeps one model per client. The
  message is the inner codec's.
  """

  inner: codec.Codec = dataclasses.field(default_factory=top_k.TopK)

  name: ClassVar[str] = 'ef21'

  kept: ClassVar[str] = 'estimate'

  def __post_init__(self) -> None:
    codec.resolve_inner(self)
    if not self.inner.traits.contraction:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}: it needs a codec whose error is smaller '
        f'than the value, and {self.inner} is not one, so the estimate could diverge.'
      )
    if self.inner.traits.needs_model:
      raise ValueError(
        f'{self.name} cannot be around {self.inner.name}, which compares an update with the model, '
        'but would get a difference of updates here.'
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
