"""Programs that take turns, each in a process of its own, so that all meet the same machine."""

from collections.abc import Callable, Sequence
import multiprocessing
import pathlib
from typing import Any

import psutil


def _serve(build: Callable[..., Any], arguments: tuple[Any, ...], pipe: Any) -> None:
  """Calls what `build` gives whenever asked, and answers with what that returns."""
  try:
    found, run = build(*arguments)
  except Exception as e:
    pipe.send((None, f'{type(e).__name__}: {str(e)[:300]}'))
    return
  pipe.send((found, ''))
  while (question := pipe.recv()) is not None:
    pipe.send(run(*question))


class Contender:
  """A program in a process of its own.

  name: of the program.
  found: what it said when it was ready; None if it could not be built.
  failure: why it could not be built, or ''.
  answers: of `run`, so far.
  """

  def __init__(self, name: str, build: Callable[..., Any], *arguments: Any):
    """Starts the process, and waits until it is ready.

    Args:
      name: Of the program.
      build: A function of a module. In the new process, `build(*arguments)` returns what to say
        when ready, and the function to call in each turn.
      *arguments: For `build`; they are pickled.
    """
    self.name = name
    self.answers: list[Any] = []
    context = multiprocessing.get_context('spawn')
    self._pipe, theirs = context.Pipe()
    self._process = context.Process(target=_serve, args=(build, arguments, theirs))
    self._process.start()
    theirs.close()
    try:
      self.found, self.failure = self._pipe.recv()
    except EOFError:
      self.found, self.failure = None, 'the process died'

  @property
  def is_ready(self) -> bool:
    return not self.failure

  def ask(self, *question: Any) -> Any:
    """Calls the function with `question` there, and returns its answer."""
    self._pipe.send(question)
    return self._pipe.recv()

  def run(self) -> None:
    """Takes a turn; the answer goes to `answers`."""
    self.answers.append(self.ask())

  def peak_mb(self) -> float:
    """The highest resident memory so far, of the process and those it started, in 10^6 bytes."""
    kilobytes = 0
    family = psutil.Process(self._process.pid)
    for process in [family, *family.children(recursive=True)]:
      status = pathlib.Path(f'/proc/{process.pid}/status').read_text()
      kilobytes += int(status.split('VmHWM:')[1].split()[0])
    return kilobytes * 1024 / 1e6

  def close(self, seconds: float = 0) -> None:
    """Ends the process, which has so many seconds to end itself, and those it started."""
    family = []
    if self._process.is_alive():
      family = psutil.Process(self._process.pid).children(recursive=True)
      if seconds:
        self._pipe.send(None)
        self._process.join(seconds)
    self._process.kill()
    self._process.join()
    for process in family:
      if process.is_running():
        process.kill()


def take_turns(contenders: Sequence[Contender], rounds: int) -> None:
  """Lets each that is ready take a turn, `rounds` times."""
  for _ in range(rounds):
    for contender in contenders:
      if contender.is_ready:
        contender.run()
