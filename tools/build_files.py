"""Writes BUILD from the tree: `./dev build-files`.

A package of `tff_lowrank` is one target, with all that lies in it; every other module is a target
of its own, named by its path. The dependencies of a target are what its sources import.
"""

import ast
import collections
from collections.abc import Iterator
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
LIBRARY = 'tff_lowrank'
FOLDERS = (LIBRARY, 'experiments', 'benchmarks', 'tools', 'tests')
HEADER = '''\
"""tff_lowrank: communication-efficient federated learning on TensorFlow Federated.

Written by `./dev build-files`: do not edit. Packages from PyPI are those of requirements.lock.
"""

load("@rules_python//python:defs.bzl", "py_binary", "py_library", "py_test")

package(default_visibility = ["//visibility:public"])

licenses(["notice"])
'''


def read_sources(root: pathlib.Path = ROOT) -> dict[str, ast.Module]:
  """Path, relative to the root -> syntax tree, of all Python files."""
  paths = sorted(path for folder in FOLDERS for path in (root / folder).rglob('*.py'))
  return {path.relative_to(root).as_posix(): ast.parse(path.read_text()) for path in paths}


def target_of(source: str) -> str:
  """The name of the target that a file belongs to."""
  parts = pathlib.PurePosixPath(source).with_suffix('').parts
  if parts[0] == LIBRARY and len(parts) > 2:
    return parts[1]
  name = '_'.join(parts[:-1] if parts[-1] == '__init__' else parts)
  return name.removeprefix(f'{LIBRARY}_')


def imported_sources(tree: ast.Module, sources: dict[str, ast.Module]) -> Iterator[str]:
  """Those of the project's files that are imported anywhere in a file."""

  def file_of(module: str) -> str | None:
    stem = module.replace('.', '/')
    return next((s for s in (f'{stem}.py', f'{stem}/__init__.py') if s in sources), None)

  for node in ast.walk(tree):
    found = []
    if isinstance(node, ast.Import):
      found = [file_of(alias.name) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found = [file_of(f'{node.module}.{a.name}') or file_of(f'{node.module}') for a in node.names]
    yield from filter(None, found)


def is_program(tree: ast.Module) -> bool:
  """Whether a file has a block `if __name__ == '__main__'`."""
  return any(isinstance(n, ast.If) and '__main__' in ast.unparse(n.test) for n in tree.body)


def render_target(name: str, files: list[str], sources: dict[str, ast.Module]) -> str:
  """The text of one target."""
  tests = [file for file in files if file.endswith('_test.py')]
  programs = [file for file in files if is_program(sources[file])]
  rule = 'py_test' if tests else 'py_binary' if programs else 'py_library'
  deps = {target_of(s) for file in files for s in imported_sources(sources[file], sources)}

  def render_list(attribute: str, values: list[str]) -> str:
    if len(values) == 1:
      return f'    {attribute} = ["{values[0]}"],\n'
    lines = ''.join(f'        "{value}",\n' for value in values)
    return f'    {attribute} = [\n{lines}    ],\n' if values else ''

  text = f'{rule}(\n    name = "{name}",\n' + render_list('srcs', files)
  if rule != 'py_library':
    [main] = tests or programs
    text += f'    main = "{main}",\n'
  return text + render_list('deps', sorted(f':{dep}' for dep in deps - {name})) + ')\n'


def render(root: pathlib.Path = ROOT) -> str:
  """The text of BUILD."""
  sources = read_sources(root)
  targets = collections.defaultdict(list)
  for source in sources:
    targets[target_of(source)].append(source)
  return '\n'.join([HEADER, *(render_target(n, files, sources) for n, files in targets.items())])


if __name__ == '__main__':
  (ROOT / 'BUILD').write_text(render())
