"""Ends a run between two rounds after a signal."""

import contextlib
import os
import signal
import threading
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):  # noqa: N818 (nothing is wrong)
  """A run was asked to stop, and is saved; `signal_number` is None if it was not a signal."""

  def __init__(self, signal_number: int | None, message: str):
    super().__init__(message)
    self.signal_number = signal_number

  @property
  def exit_status(self) -> int:
    """The exit status as in a shell."""
    return 128 + (self.signal_number or 0)


class StopRequest:
  """Inside a `with` block, records the first Ctrl-C or SIGTERM; a second one interrupts at once.

  Outside the main thread, where Python allows no handlers, signals are not handled.
  """

  def __init__(self) -> None:
    self.signal_number: int | None = None

  @property
  def is_made(self) -> bool:
    return self.signal_number is not None

  def _note(self, number: int, frame: Any) -> None:
    del frame
    if self.is_made:
      raise KeyboardInterrupt
    self.signal_number = number
    # Not `print`, since the signal may have interrupted one.
    with contextlib.suppress(OSError):  # Standard error may be closed.
      os.write(2, b'\nStopping after this round; a second signal stops at once.\n')

  def __enter__(self) -> 'StopRequest':
    self._before = {}
    if threading.current_thread() is threading.main_thread():
      self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
    return self

  def __exit__(self, *exception: Any) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)
