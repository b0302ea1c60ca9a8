"""Standard input, output and error that a binary can rely on, whatever it was started with."""

import io
import os
import sys
from typing import Any


def open_closed() -> None:
  """Opens those that are closed on the null device.

  Otherwise the next file to be opened would be one of them, and get what is printed. To be called
  before anything else opens files.
  """
  for name in ('stdin', 'stdout', 'stderr'):
    if getattr(sys, name) is None:
      # The system gives the lowest number that is free: that of the stream.
      descriptor = os.open(os.devnull, os.O_RDWR)
      os.set_inheritable(descriptor, True)
      setattr(sys, name, open(descriptor, 'r' if name == 'stdin' else 'w', closefd=False))


class _Output(io.FileIO):
  """A standard stream; what its reader does not wait for, as `head`, is dropped."""

  _is_over = False

  def write(self, data: Any) -> int:
    if self._is_over:
      return len(data)
    try:
      return super().write(data)
    except OSError as e:
      self._is_over = True  # An error is raised once, and not again when the process ends.
      if isinstance(e, BrokenPipeError):
        return len(data)
      raise OSError(e.errno, e.strerror, f'/dev/fd/{self.fileno()}') from e


def keep_going() -> None:
  """Lets a binary finish its work after the reader of its output has ended.

  Names of files that are no UTF-8 are printed with escapes.
  """
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)
    stream.flush()
    replacement = io.TextIOWrapper(
      io.BufferedWriter(_Output(stream.fileno(), 'w', closefd=False)),
      stream.encoding,
      errors='backslashreplace',
      line_buffering=stream.line_buffering,
      write_through=stream.write_through,
    )
    setattr(sys, name, replacement)
