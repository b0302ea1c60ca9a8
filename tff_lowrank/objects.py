"""Users' Python objects, given as `package.module:NAME`."""

import hashlib
import importlib
from importlib import metadata
import os
import pathlib
import sys
import types
from typing import Any


def is_name(text: str) -> bool:
  """Whether `text` has the form `package.module:NAME`; the object need not exist."""
  module, colon, name = text.partition(':')
  return bool(colon) and all(part.isidentifier() for part in (*module.split('.'), name))


def load(text: str) -> Any:
  """The object that `text` names, from a module in `sys.path` or in the current folder.

  The current folder stays at the end of `sys.path`, for later imports.

  Raises ValueError if there is no such module or it has no such name. Errors raised by the module
  itself are passed on.
  """
  if not is_name(text):
    raise ValueError(f'Expected package.module:NAME, found {text!r}.')
  module_name, _, name = text.partition(':')
  module = _import(module_name)
  if not hasattr(module, name):
    raise ValueError(f'The module {module_name!r} has no {name!r}.')
  return getattr(module, name)


def source(text: str) -> dict[str, str]:
  """Identifies the version of the module of the object that `text` names.

  Returns:
    `file` and `sha256` of the module's file, and, if it belongs to an installed distribution,
    the `distribution` and its `version`; empty for a module without a file. The imports of the
    module are not included.

  Raises ValueError as `load`.
  """
  load(text)
  return _source_of_module(text.partition(':')[0])


def source_of(function: Any) -> dict[str, str]:
  """As `source`, for the module in which a function was defined."""
  return _source_of_module(getattr(function, '__module__', None) or '')


def _source_of_module(module_name: str) -> dict[str, str]:
  file = getattr(sys.modules.get(module_name), '__file__', None)
  if file is None:  # For example, an interactive session.
    return {}
  path = pathlib.Path(file).resolve()
  found = dict(file=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
  top_level = module_name.partition('.')[0]
  for distribution in metadata.packages_distributions().get(top_level, ()):
    # The files of an editable installation are not the imported ones.
    listed = metadata.files(distribution) or ()
    same_name = (entry.locate() for entry in listed if entry.name == path.name)
    if any(pathlib.Path(entry).resolve() == path for entry in same_name):
      found |= dict(distribution=distribution, version=metadata.version(distribution))
  return found


def _import(name: str) -> types.ModuleType:
  folder = os.getcwd()
  if folder not in sys.path:
    sys.path.append(folder)
  importlib.invalidate_caches()
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as e:
    if e.name is not None and f'{name}.'.startswith(f'{e.name}.'):
      raise ValueError(
        f'There is no module {e.name!r} in sys.path or the current folder, {folder}. Write modules '
        'as in an import statement: `package.module:NAME`.'
      ) from e
    raise ValueError(f'The module {name!r} imports {e.name!r}, which cannot be found.') from e
