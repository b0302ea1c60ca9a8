"""Records the calls of XLA programs, with their arguments and results."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import threading
from typing import Any

import numpy as np

from tff_lowrank.execution import native


@dataclasses.dataclass
class Recorded:
  """A program that was called.

  arguments: of its first call, without the captured ones.
  captured: its last arguments, which are the same in each call.
  results: of its first call, in order.
  num_calls: the number of calls.
  """

  program: native.XlaProgram
  arguments: list[np.ndarray]
  captured: list[np.ndarray]
  results: list[np.ndarray] = dataclasses.field(default_factory=list)
  num_calls: int = 1


@contextlib.contextmanager
def recording() -> Iterator[list[Recorded]]:
  """Yields a list, to which the programs called inside are added, by any context.

  They are in the order of their first calls.
  """
  found: dict[int, Recorded] = {}
  records: list[Recorded] = []
  lock = threading.Lock()

  def observe(program: native.XlaProgram, arguments: Sequence[Any]) -> Callable[..., None]:
    with lock:
      if id(program) in found:
        found[id(program)].num_calls += 1
        return lambda results: None
      # Copied before the call, because a program may overwrite its arguments.
      record = Recorded(program, _copies(arguments), _copies(program.captured))
      found[id(program)] = record
      records.append(record)

    def finish(results: Sequence[Any]) -> None:
      record.results = _copies(results)

    return finish

  native.call_observers.append(observe)
  try:
    yield records
  finally:
    native.call_observers.remove(observe)


def _copies(arrays: Sequence[Any]) -> list[np.ndarray]:
  return [np.array(array) for array in arrays]
