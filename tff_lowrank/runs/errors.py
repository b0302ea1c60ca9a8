"""Converts ValueErrors to more specific errors, by where they are raised."""

from collections.abc import Iterator
import contextlib

from tff_lowrank import files
from tff_lowrank import settings
from tff_lowrank.simulation import manifest


def as_setting_errors(what: str = '') -> contextlib.AbstractContextManager[None]:
  """Inside, a ValueError becomes a SettingError: the requested settings are invalid.

  A FileError is passed on unchanged. The message starts with `what` and a colon.
  """
  return _value_errors_as(settings.SettingError, f'{what}: ' if what else '')


def as_damage() -> contextlib.AbstractContextManager[None]:
  """Inside, a ValueError becomes a DamagedError: the saved state of a run cannot be read.

  A FileError about another file is passed on unchanged.
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
