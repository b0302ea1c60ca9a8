"""Examples in docstrings run as they stand."""

import ast
import doctest
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def docstrings(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, DOCUMENTED) and ast.get_docstring(node):
      yield ast.get_docstring(node)


PATHS = sorted((ROOT / 'tff_lowrank').rglob('*.py'))
WITH_EXAMPLES = [
  p for p in PATHS if '>>>' in p.read_text() and any('>>>' in text for text in docstrings(p))
]


def module_name(path):
  return '.'.join(path.relative_to(ROOT).with_suffix('').parts)


@pytest.mark.parametrize('path', WITH_EXAMPLES, ids=module_name)
def test_examples_run(path):
  found = doctest.testmod(importlib.import_module(module_name(path)))
  # One in a property, or in what a decorator hides, would not be found.
  written = sum(len(re.findall('^ *>>> ', text, re.M)) for text in docstrings(path))
  assert (found.failed, found.attempted) == (0, written)


def test_there_are_examples():
  assert len(WITH_EXAMPLES) >= 8


def test_code_in_docstrings_is_an_example_that_runs():
  block = re.compile(r'```|::$|^ +(?:import \w|from \w\S* import |def \w+\(|@\w)', re.M)
  for path in PATHS:
    for text in docstrings(path):
      found = block.search(text)
      assert not found, f'{path}: write {found[0]!r} as a doctest, with `>>> `.'
