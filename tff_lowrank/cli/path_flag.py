"""Flags of files and folders."""

import os
from typing import Any

from absl import flags


def expand(text: str) -> str:
  """A path with a leading `~` or `~USER` as a shell expands it, which it does not in `--flag=~/x`.

  Raises ValueError if `text` is no path.
  """
  if '\0' in text:
    raise ValueError(f'expected a path, found one with the character NUL: {text!r}')
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
