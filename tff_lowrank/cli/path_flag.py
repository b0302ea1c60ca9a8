"""Flags of files and folders."""

import os
from typing import Any

from absl import flags


def expand(text: str) -> str:
  """Expands a leading `~` or `~USER`, which a shell does not do in `--flag=~/x`.

  Raises ValueError if `text` is not a path.
  """
  if '\0' in text:
    raise ValueError(f'expected a path, found the character NUL in {text!r}')
  return os.path.expanduser(text)


class _Parser(flags.ArgumentParser):
  def parse(self, argument: str) -> str:
    return expand(argument)

  def flag_type(self) -> str:
    return 'path'


def define(
  name: str, default: str | None, about: str, **options: Any
) -> flags.FlagHolder[str | None]:
  """Defines a flag whose value is a path; `options` are those of `flags.DEFINE`."""
  return flags.DEFINE(_Parser(), name, default, about, serializer=flags.ArgumentSerializer(),
                      **options)  # fmt: skip
