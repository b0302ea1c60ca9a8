"""A learning rate for each client, from a function of the client's id."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tff_lowrank import objects
from tff_lowrank import settings


def load(rate: str | Callable[[str], float]) -> Callable[[str], float]:
  """The function, or the function of that name; raises ValueError if there is none."""
  function = objects.load(rate) if isinstance(rate, str) else rate
  if not callable(function):
    raise ValueError(f'{rate} is not a function, but {function!r}.')
  return function


def of_clients(
  rate: str | Callable[[str], float], client_ids: Iterable[str]
) -> dict[str, float]:  # fmt: skip
  """The learning rate of each of these clients; calls the function once for each.

  Raises ValueError as `load`, and SettingError for a value that is not a rate. Errors of the
  function itself are passed on.
  """
  function = load(rate)
  return {client_id: _checked(client_id, function(client_id)) for client_id in client_ids}


def _checked(client_id: str, rate: Any) -> float:
  name = f'client_learning_rate of client {client_id!r}'
  rate = rate.item() if isinstance(rate, np.generic) else rate
  return settings.Setting(name, float, None, '', at_least=0).checked(rate)
