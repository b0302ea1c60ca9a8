"""Tasks returned by a user's function, given as `package.module:function`."""

from collections.abc import Callable, Mapping
import inspect
import types
import typing
from typing import Any

from tff_lowrank import objects
from tff_lowrank.tasks import task as task_lib

_BOOLS = {'true': True, '1': True, 'false': False, '0': False}
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def load(name: str, arguments: Mapping[str, Any]) -> task_lib.Task:
  """Calls the function `name` from a module in `sys.path` or in the current folder.

  The current folder stays at the end of `sys.path`, for later imports.

  Args:
    name: `package.module:function`.
    arguments: The function's arguments by name. Texts are converted to the annotated type of the
      parameter or, without annotation, to the type of its default: int, float, bool, str or None.

  Raises:
    ValueError: If there is no such function, it does not take these arguments, or it does not
      return a `Task`. Errors raised by the module and the function themselves are passed on.
  """
  function = _find(name)
  found = function(**_converted(name, function, arguments))
  if not isinstance(found, task_lib.Task):
    raise ValueError(
      f'{name} must return a `tff_lowrank.tasks.Task`, found {found!r:.100} of type '
      f'{type(found).__name__}.'
    )
  return found


def _find(name: str) -> Callable[..., Any]:
  function = objects.load(name)
  if not callable(function):
    raise ValueError(
      f'{name} must be a function, found {function!r:.100} of type {type(function).__name__}.'
    )
  return function


def _converted(
  name: str, function: Callable[..., Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
  parameters = _parameters(function)
  taken = {p.name: p for p in parameters if p.kind in _BY_KEYWORD}
  listed = ', '.join(f'`{parameter}`' for parameter in taken) or 'none'
  takes_all = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters)
  for argument in arguments:
    if argument not in taken and not takes_all:
      raise ValueError(f'{name} has no parameter {argument!r}; it has {listed}.')
  for parameter in taken.values():
    if parameter.default is parameter.empty and parameter.name not in arguments:
      raise ValueError(f'{name} needs a value for {parameter.name!r}; its parameters: {listed}.')
  return {
    argument: _value(name, taken[argument], value)
    if argument in taken and isinstance(value, str)
    else value
    for argument, value in arguments.items()
  }


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
  """The parameters, with annotations given as text resolved to types."""
  try:
    signature = inspect.signature(function, eval_str=True)
  except (NameError, AttributeError, TypeError):  # An annotation only for type checkers.
    signature = inspect.signature(function)
  return list(signature.parameters.values())


def _value(name: str, parameter: inspect.Parameter, text: str) -> Any:
  """Converts `text` to a value of the parameter of function `name`."""
  kinds = _kinds(parameter)
  for kind in (type(None), bool, int, float, str):
    if kind in kinds:
      try:
        return _parse(kind, text)
      except ValueError:
        continue
  names = ' or '.join('None' if kind is type(None) else _name(kind) for kind in kinds)
  raise ValueError(f'The parameter {parameter.name!r} of {name} is {names}, found {text!r}.')


def _kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
  annotation, default = parameter.annotation, parameter.default
  if annotation in (parameter.empty, Any):
    if default is parameter.empty:
      return (str,)
    return (type(None), str) if default is None else (type(default),)
  if annotation is None:
    return (type(None),)
  if typing.get_origin(annotation) in (typing.Union, types.UnionType):
    return typing.get_args(annotation)
  return (annotation,)


def _name(kind: Any) -> str:
  return kind.__name__ if isinstance(kind, type) else str(kind)


def _parse(kind: type, text: str) -> Any:
  """Raises ValueError if `text` is not a value of the type `kind`."""
  if kind is type(None):
    if text.lower() != 'none':
      raise ValueError
    return None
  if kind is bool:
    if text.lower() not in _BOOLS:
      raise ValueError
    return _BOOLS[text.lower()]
  return kind(text)
