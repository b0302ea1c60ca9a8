"""Codecs as text: `look_back(error_feedback(top_k(0.1)), 0.2)`."""

import ast
from collections.abc import Mapping
import dataclasses
import difflib
from typing import Any

from tff_lowrank.codecs import codec
from tff_lowrank.codecs import drive
from tff_lowrank.codecs import ef21
from tff_lowrank.codecs import error_feedback
from tff_lowrank.codecs import filters
from tff_lowrank.codecs import identity
from tff_lowrank.codecs import look_back
from tff_lowrank.codecs import low_rank
from tff_lowrank.codecs import quantize
from tff_lowrank.codecs import sign_sgd
from tff_lowrank.codecs import sparse_ternary
from tff_lowrank.codecs import top_k

_MAX_LENGTH = 1000

_ALL: tuple[type[codec.Codec], ...] = (
  identity.Identity,
  top_k.TopK,
  top_k.RandomK,
  sparse_ternary.SparseTernary,
  sign_sgd.SignSGD,
  quantize.QSGD,
  quantize.Float16,
  quantize.TernGrad,
  low_rank.Atomo,
  low_rank.TruncatedSVD,
  low_rank.PowerSGD,
  drive.DRIVE,
  filters.Gaia,
  filters.CMFL,
  error_feedback.ErrorFeedback,
  ef21.EF21,
  look_back.LookBack,
)
CODECS: Mapping[str, type[codec.Codec]] = {kind.name: kind for kind in _ALL}


def parse(text: str) -> codec.Codec:
  """The codec that `text` describes; `parse(str(codec)) == codec`.

  A codec is written as a name with its settings in parentheses, by position or by `name=`, as in
  Python. A setting is a number, `True`, `False`, `None`, a word, or another codec. The names are
  those in `CODECS`.

  Raises ValueError if `text` is not of this form, or the codecs cannot be combined.

  >>> from tff_lowrank import codecs
  >>> codec = codecs.parse('error_feedback(top_k(0.01, qsgd(7, max, False)))')
  >>> codec.inner
  TopK(amount=0.01, values=QSGD(levels=7, norm='max', stochastic=False), granularity='tensor')
  >>> codecs.parse(str(codec)) == codec
  True
  """
  if len(text) > _MAX_LENGTH:  # Python's parser can run out of stack on long texts.
    raise ValueError(
      f'Expected a codec of at most {_MAX_LENGTH} characters, found {len(text)}, {text[:40]!r}...'
    )
  try:
    node = ast.parse(text.strip(), mode='eval').body
  except (SyntaxError, ValueError, RecursionError) as e:
    reason = getattr(e, 'msg', e)
    raise ValueError(f'Expected a codec such as `top_k(0.1)`, found {text!r}: {reason}.') from e
  try:
    return _codec(node)
  except (TypeError, ValueError, RecursionError) as e:
    raise ValueError(f'In the codec {text!r}: {e}') from e


def resolve(value: codec.Codec | str, argument: str = 'codec') -> codec.Codec:
  """`value` if it is a codec; if it is a text, the codec that it describes (see `parse`).

  Raises TypeError if it is neither, with `argument` as its name in the message, and ValueError as
  `parse` does.
  """
  if isinstance(value, str):
    return parse(value)
  if not isinstance(value, codec.Codec):
    raise TypeError(
      f'`{argument}` must be a `codecs.Codec`, or a text for `codecs.parse` such as '
      f"'error_feedback(top_k(0.1))', found {value!r} of type {type(value).__name__}."
    )
  return value


def _codec(node: ast.expr) -> codec.Codec:
  call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
  name = call.func.id if isinstance(call.func, ast.Name) else ast.unparse(call.func)
  if name not in CODECS:
    near = difflib.get_close_matches(name, CODECS, 1)
    hint = f' Did you mean {near[0]!r}?' if near else ''
    raise ValueError(f'expected one of {", ".join(CODECS)}, found {name!r}.{hint}')
  kind = CODECS[name]
  fields = [field.name for field in dataclasses.fields(kind)]
  if len(call.args) > len(fields):
    raise ValueError(
      f'{name} takes {len(fields)} settings ({", ".join(fields)}), found {len(call.args)}.'
    )
  given: list[tuple[str | None, ast.expr]] = list(zip(fields, call.args, strict=False))
  given += [(keyword.arg, keyword.value) for keyword in call.keywords]
  settings = {}
  for field, value in given:
    if field not in fields:
      raise ValueError(f'{name} has the settings {", ".join(fields) or "none"}, found {field!r}.')
    if field in settings:
      raise ValueError(f'the setting {field!r} of {name} is given twice.')
    settings[field] = _setting(value)
  required = [
    field.name
    for field in dataclasses.fields(kind)
    if field.default is field.default_factory is dataclasses.MISSING and field.name not in settings
  ]
  if required:
    raise ValueError(f'{name} needs the setting {required[0]!r}.')
  return kind(**settings)


def _setting(node: ast.expr) -> Any:
  if isinstance(node, ast.Constant) and not isinstance(node.value, (str, bytes)):
    return node.value
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
    return -_setting(node.operand)
  if isinstance(node, ast.Name) and node.id not in CODECS:
    return node.id
  return _codec(node)
