"""Makes standard input, output and error usable, however the command was started."""

import io
import os
import sys
from typing import Any


def open_closed() -> None:
  """Opens closed standard streams on the null device.

  Otherwise the next opened file would take the place of one of them, and printed text would go to
  it. Must be called before anything else opens files.
  """
  for name in ('stdin', 'stdout', 'stderr'):
    if getattr(sys, name) is None:
      # The system uses the lowest free number: that of the stream.
      descriptor = os.open(os.devnull, os.O_RDWR)
      os.set_inheritable(descriptor, True)
      setattr(sys, name, open(descriptor, 'r' if name == 'stdin' else 'w', closefd=False))


class _Output(io.FileIO):
  """A standard stream; output is dropped after its reader, such as `head`, has ended."""

  _is_over = False

  def write(self, data: Any) -> int:
    if self._is_over:
      return len(data)
    try:
      return super().write(data)
    except OSError as e:
      self._is_over = True  # An error is raised only once, not again when the process ends.
      if isinstance(e, BrokenPipeError):
        return len(data)
      raise OSError(e.errno, e.strerror, f'/dev/fd/{self.fileno()}') from e


def keep_going() -> None:
  """Lets a command finish its work after the reader of its output has ended.

  File names that are not UTF-8 are printed with escapes.
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
