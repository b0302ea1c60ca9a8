"""Shows the progress of a run: a bar in a terminal, else a line from time to time."""

import sys
import time
from typing import Any

import tqdm

# Between two lines if there is no terminal.
SECONDS = 30


class Progress:
  """Use as a context manager."""

  def __init__(self, label: str, total: int, done: int):
    """Starts to show progress.

    Args:
      label: The name of the run.
      total: The number of all rounds.
      done: The number of rounds finished before.
    """
    self._label, self._total, self._before = label, total, done
    self._bar = tqdm.tqdm(total=total, initial=done, desc=label, unit='round', disable=None)
    self._start = self._told = time.monotonic()

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *unused: Any) -> None:
    self._bar.close()

  def update(self, round_num: int, facts: dict[str, str]) -> None:
    """Reports a finished round; `facts` are shown as they are."""
    self._bar.set_postfix(facts)
    self._bar.update()
    now = time.monotonic()
    if self._bar.disable and now - self._told >= SECONDS:
      self._told = now
      left = (now - self._start) / (round_num - self._before) * (self._total - round_num)
      told = ', '.join(f'{name} {value}' for name, value in facts.items())
      print(
        f'{self._label}: round {round_num} of {self._total}, {told}, about {_human(left)} left',
        file=sys.stderr,
        flush=True,
      )


def _human(seconds: float) -> str:
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 90 * 60:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'
