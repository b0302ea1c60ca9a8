"""What a ValueError means, by where it is raised."""

from collections.abc import Iterator
import contextlib

from tff_lowrank import files
from tff_lowrank import settings
from tff_lowrank.simulation import manifest


def as_setting_errors(what: str = '') -> contextlib.AbstractContextManager[None]:
  """Inside, a ValueError says that what was asked for cannot be: it becomes a SettingError.

  One about a file passes as it is. `what` and a colon precede the sentence.
  """
  return _value_errors_as(settings.SettingError, f'{what}: ' if what else '')


def as_damage() -> contextlib.AbstractContextManager[None]:
  """Inside, where what a run saved is read back, a ValueError becomes a DamagedError.

  One about another file passes as it is.
  """
  return _value_errors_as(manifest.DamagedError, '')


@contextlib.contextmanager
def _value_errors_as(kind: type[ValueError], before: str) -> Iterator[None]:
  try:
    yield
  except (files.FileError, manifest.DamagedError, manifest.MismatchError):
    raise
  except ValueError as e:
    raise kind(f'{before}{e}') from e
