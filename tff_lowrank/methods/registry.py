"""Finds methods by name."""

from collections.abc import Mapping
import importlib
import pkgutil

from tff_lowrank import methods
from tff_lowrank import objects
from tff_lowrank.methods import method as method_lib


def found() -> dict[str, method_lib.Method]:
  """The records in the modules of the package, by name.

  Raises ValueError if a file and its method have different names.
  """
  records = {}
  for info in pkgutil.iter_modules(methods.__path__):
    module = importlib.import_module(f'{methods.__name__}.{info.name}')
    record = getattr(module, 'METHOD', None)
    if record is not None:
      if record.name != info.name:
        raise ValueError(
          f'The file of method {record.name!r} must have the same name, found {info.name}.'
        )
      records[record.name] = record
  return records


# The methods of this package by name, the baseline first.
METHODS: Mapping[str, method_lib.Method] = dict(
  sorted(found().items(), key=lambda entry: (not entry[1].is_baseline, entry[0]))
)
[BASELINE] = (record for record in METHODS.values() if record.is_baseline)


def find(name: str | method_lib.Method) -> method_lib.Method:
  """The method called `name`, or the record `package.module:RECORD`; a `Method` is returned as is.

  Raises ValueError if it does not exist.
  """
  if isinstance(name, method_lib.Method):
    return name
  if name in METHODS:
    return METHODS[name]
  if not objects.is_name(name):
    raise ValueError(
      f'method must be one of {", ".join(METHODS)}, or package.module:RECORD, found {name!r}.'
    )
  record = objects.load(name)
  if not isinstance(record, method_lib.Method):
    raise ValueError(f'{name} must be a methods.Method, found {type(record).__name__}.')
  return record


def owners(setting: str) -> list[str]:
  """The methods of this package that have an own setting with this name."""
  return [name for name, record in METHODS.items() if setting in record.setting_names]
