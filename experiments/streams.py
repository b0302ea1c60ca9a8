"""Standard input, output and error that a binary can rely on, whatever it was started with."""

import io
import os
import sys


def open_closed() -> None:
  """Opens those that are closed on the null device.

  Otherwise the next file to be opened would be one of them, and get what is printed. To be called
  before anything else opens files.
  """
  for descriptor, name in enumerate(('stdin', 'stdout', 'stderr')):
    if getattr(sys, name) is None:
      opened = os.open(os.devnull, os.O_RDWR)
      if opened != descriptor:
        os.dup2(opened, descriptor)
        os.close(opened)
      os.set_inheritable(descriptor, True)
      setattr(sys, name, open(descriptor, 'w' if descriptor else 'r', closefd=False))


class _Output(io.FileIO):
  """A standard stream; what its reader does not wait for, as `head`, is dropped."""

  _is_over = False

  def write(self, data: bytes) -> int:
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
  for descriptor, name in ((1, 'stdout'), (2, 'stderr')):
    stream = getattr(sys, name)
    stream.flush()
    replacement = io.TextIOWrapper(
      io.BufferedWriter(_Output(descriptor, 'w', closefd=False)),
      stream.encoding,
      errors='backslashreplace',
      line_buffering=stream.line_buffering,
      write_through=stream.write_through,
    )
    setattr(sys, name, replacement)
