"""Docstrings as this package writes them, made into reStructuredText; and all public names checked.

The docstrings are plain text in the Google style. Beside its sections they have
  * lists of fields, `name: what it is`, whose further lines are indented;
  * tables and equations, indented under a line of text;
  * code in single backticks.
"""

import importlib
import inspect
import pkgutil
import re
import textwrap

from sphinx.util import logging

import tff_lowrank
from tff_lowrank import execution

_FIELD = re.compile(r'(\*{0,2}[a-z_][\w.]*(?:, [a-z_][\w.]*)*): +(\S.*)')
_ITEM = re.compile(r'[*-] ')
_SECTIONS = ('Args:', 'Returns:', 'Raises:', 'Yields:', 'Attributes:')
_CODE = re.compile(r'(`+)(.+?)\1')


_EMPHASIS = re.compile(r'(?<![\w*])\*(\w[\w -]*)\*(?![\w*])')


def _escape_markup(text: str) -> str:
  parts, end = [], 0
  for found in _EMPHASIS.finditer(text):
    parts += [re.sub(r'([*|\\]|_\b)', r'\\\1', text[end : found.start()]), found[0]]
    end = found.end()
  return ''.join([*parts, re.sub(r'([*|\\]|_\b)', r'\\\1', text[end:])])


def escape(text: str) -> str:
  """A line of prose, with code as literals and emphasis, and nothing else that is markup."""
  parts, end = [], 0
  for found in _CODE.finditer(text):
    parts.append(_escape_markup(text[end : found.start()]))
    parts.append(f'``{found[2]}``')
    if found.end() < len(text) and text[found.end()].isalnum():
      parts.append('\\ ')
    end = found.end()
  parts.append(_escape_markup(text[end:]))
  return ''.join(parts)


def _indent(line: str) -> int:
  return len(line) - len(line.lstrip())


def _end_list(done: list[str]) -> None:
  if done and done[-1].startswith(('* ', '  ')):
    done.append('')


def _paragraph(lines: list[str]) -> list[str]:
  """A run of lines without a blank one, the first not indented."""
  done, i = [], 0
  while i < len(lines):
    line, deeper = lines[i], i + 1
    while deeper < len(lines) and _indent(lines[deeper]):
      deeper += 1
    below = lines[i + 1 : deeper]
    field, is_item = _FIELD.fullmatch(line), _ITEM.match(line)
    if field or is_item:
      # The line that goes on, and those below it.
      text = escape(field[2] if field else line[2:])
      head = f'* **{field[1]}**: {text}' if field else f'* {text}'
      if done and not done[-1].startswith(('* ', '  ')):
        done.append('')
      done += [head, *(f'  {escape(x.strip())}' for x in below)]
    elif below:
      if line:
        _end_list(done)
        done += [escape(line), '']
      inner = textwrap.dedent('\n'.join(below)).split('\n')
      if all(_indent(x) or _FIELD.fullmatch(x) for x in inner):
        done += [*_paragraph(inner), '']
      else:  # A table or equations, which keep their form.
        done += ['::', '', *(f'  {x}' for x in inner), '']
    else:
      _end_list(done)
      done.append(escape(line))
    i = deeper
  return done


def _blocks(lines: list[str]) -> list[list[str]]:
  blocks = [[]]
  for line in lines:
    if line.strip():
      blocks[-1].append(line.rstrip())
    elif blocks[-1]:
      blocks.append([])
  return [block for block in blocks if block]


def _prose(lines: list[str]) -> list[str]:
  done = []
  for block in _blocks(lines):
    if all(_indent(line) for line in block):
      done += ['::', '', *textwrap.indent(textwrap.dedent('\n'.join(block)), '  ').split('\n')]
    else:
      done += _paragraph(block)
    done.append('')
  return done


def _section(lines: list[str]) -> list[str]:
  """The body of a section: entries that napoleon reads, with their texts escaped."""
  done, outer = [], min((_indent(x) for x in lines if x.strip()), default=0)
  for line in lines:
    text = line[outer:]
    entry = re.fullmatch(r'(\*{0,2}\w+|[A-Z]\w+(?: or [A-Z]\w+)*): +(.*)', text)
    if not text.strip():
      done.append('')
    elif entry:
      done.append(f'  {entry[1]}: {escape(entry[2])}')
    else:
      done.append(f'  {" " * _indent(text)}{escape(text.strip())}')
  return done


def convert(lines: list[str]) -> list[str]:
  """The lines of a docstring, as napoleon and docutils can read them."""
  done, prose, i = [], [], 0
  while i < len(lines):
    if lines[i].strip() in _SECTIONS and not _indent(lines[i]):
      end = i + 1
      while end < len(lines) and (not lines[end].strip() or _indent(lines[end])):
        end += 1
      done += [*_prose(prose), lines[i].strip(), *_section(lines[i + 1 : end]), '']
      prose, i = [], end
    else:
      prose.append(lines[i])
      i += 1
  return done + _prose(prose)


def _process(app, what, name, obj, options, lines):
  lines[:] = convert(lines)


def _process_signature(app, what, name, obj, options, signature, returns):
  """Defaults that are no Python, such as `<factory>`, would keep a signature from being read."""
  return signature and re.sub(r'= <[^>]*>', '= ...', signature), returns


def _skip(app, what, name, obj, skip, options):
  """Fields of named tuples, which the class's docstring describes."""
  return True if str(inspect.getdoc(obj)).startswith('Alias for field number') else None


def packages() -> list[str]:
  """The packages that export names."""
  found = [f'tff_lowrank.{info.name}' for info in pkgutil.iter_modules(tff_lowrank.__path__)]
  return [name for name in found if hasattr(importlib.import_module(name), '__all__')]


def undocumented(documented: set[str]) -> list[str]:
  """Public names that are not among the `documented` ones, or have no docstring."""
  missing = []
  for package in packages():
    module = importlib.import_module(package)
    for name in module.__all__:
      value = getattr(module, name)
      has_text = not (inspect.isclass(value) or inspect.isfunction(value)) or inspect.getdoc(value)
      if f'{package}.{name}' not in documented or not has_text:
        missing.append(f'{package}.{name}')
  return missing


def _check(app, env):
  objects = env.get_domain('py').objects
  for name in undocumented({name for name, entry in objects.items() if not entry.aliased}):
    logging.getLogger(__name__).warning(f'public name without documentation: {name}')


def _end(app, exception):
  # In the place of TFF's own, which would complain at exit.
  execution.set_local_context()


def setup(app):
  app.connect('autodoc-process-docstring', _process, priority=400)  # Before napoleon.
  app.connect('autodoc-process-signature', _process_signature)
  app.connect('autodoc-skip-member', _skip)
  app.connect('env-check-consistency', _check)
  app.connect('build-finished', _end)
  return dict(parallel_read_safe=True)
