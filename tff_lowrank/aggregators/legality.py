"""Checks that a codec works with an aggregation; errors name both and give the reason."""

from collections.abc import Iterator
import inspect
from typing import Any

import tensorflow_federated as tff

from tff_lowrank import codecs

_FACTORIES = (
  tff.aggregators.WeightedAggregationFactory,
  tff.aggregators.UnweightedAggregationFactory,
)
_SECURE = (
  tff.aggregators.SecureSumFactory,
  tff.aggregators.SecureModularSumFactory,
)


def _parts(factory: Any) -> Iterator[Any]:
  """`factory` and the factories that it holds or closes over, to any depth."""
  yield factory
  closed_over = inspect.getclosurevars(type(factory).create).nonlocals
  for value in [*vars(factory).values(), *closed_over.values()]:
    for held in value if isinstance(value, (list, tuple)) else (value,):
      if isinstance(held, _FACTORIES):
        yield from _parts(held)


def check_stack(codec: codecs.Codec, mean_factory: Any) -> None:
  """Raises ValueError if the messages of `codec` cannot be aggregated by `mean_factory`.

  Secure aggregation only sums messages, so the codec must be linear. Differential privacy bounds
  the contribution of a client by clipping; error feedback would send the clipped part in later
  rounds.
  """
  for part in _parts(mean_factory):
    name = type(part).__name__
    if isinstance(part, _SECURE):
      for inner in reversed(codec.parts):
        if inner.traits.individual:
          raise ValueError(
            f'{inner.name} does not work with secure aggregation ({name}): the server must see '
            "each client's message, to keep it for the next rounds."
          )
      if not codec.traits.linear:
        raise ValueError(
          f'{codec} does not work with secure aggregation ({name}): the server gets only the sum '
          'of the messages, and these messages must be decoded before they are summed.'
        )
    if isinstance(part, tff.aggregators.DifferentiallyPrivateFactory):
      for inner in codec.parts:
        if isinstance(inner, codecs.ErrorFeedback):
          raise ValueError(
            f'{inner.name} is unsound with differential privacy ({name}): the residual adds the '
            'clipped part to later rounds, so clipping no longer bounds the contribution of a '
            'client.'
          )
