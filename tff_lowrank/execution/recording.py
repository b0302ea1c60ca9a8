"""Watching the calls of XLA programs: what was run, on which arguments, with which results."""

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

  arguments: of its first call, without what the program captured.
  captured: its last arguments, the same in each call.
  results: of its first call, in their order.
  num_calls: how often it was called.
  """

  program: native.XlaProgram
  arguments: list[np.ndarray]
  captured: list[np.ndarray]
  results: list[np.ndarray] = dataclasses.field(default_factory=list)
  num_calls: int = 1


@contextlib.contextmanager
def recording() -> Iterator[list[Recorded]]:
  """Gives a list that fills with the programs that are called inside, by any context.

  They stand in the order of their first calls.
  """
  found: dict[int, Recorded] = {}
  records: list[Recorded] = []
  lock = threading.Lock()

  def observe(program: native.XlaProgram, arguments: Sequence[Any]) -> Callable[..., None]:
    with lock:
      if id(program) in found:
        found[id(program)].num_calls += 1
        return lambda results: None
      # Copies, before the call: a program may write its results where its arguments were.
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
