"""Which codecs go with which aggregation: refused when built, with the two parts and the reason."""

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
  """Raises ValueError if `codec` cannot soundly stand before `mean_factory`.

  Secure aggregation only adds messages, so they must be of use when only added: the codec must
  be linear. Differential privacy bounds what a client can add in a round by clipping; error
  feedback brings what was cut off back in the next rounds.
  """
  for part in _parts(mean_factory):
    name = type(part).__name__
    if isinstance(part, _SECURE):
      for inner in reversed(codec.parts):
        if inner.traits.individual:
          raise ValueError(
            f'{inner.name} does not work under secure aggregation ({name}): the server must see '
            'what each client sends, to keep it for the next rounds.'
          )
      if not codec.traits.linear:
        raise ValueError(
          f'{codec} does not work under secure aggregation ({name}): the server learns only the '
          'sum of the messages, and they cannot be added before they are decoded.'
        )
    if isinstance(part, tff.aggregators.DifferentiallyPrivateFactory):
      for inner in codec.parts:
        if isinstance(inner, codecs.ErrorFeedback):
          raise ValueError(
            f'{inner.name} is unsound under differential privacy ({name}): the residual brings '
            'back in later rounds what clipping cut off, so that clipping no longer bounds what '
            'a client contributes.'
          )
