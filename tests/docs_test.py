"""The pages in docs: their code runs as it stands, what they name exists, and the site builds."""

import html
import importlib.util
import inspect
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest

from tff_lowrank import methods

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
NOTEBOOKS = sorted((DOCS / 'tutorials').glob('*.ipynb'))


def name_of(path):
  return str(path.relative_to(DOCS))


def code_of(page):
  return re.findall(r'^```python\n(.*?)^```', page.read_text(), re.MULTILINE | re.DOTALL)


def cells(notebook, kind):
  return [cell for cell in json.loads(notebook.read_text())['cells'] if cell['cell_type'] == kind]


def run(pieces, name):
  names = {}
  for i, piece in enumerate(pieces):
    exec(compile(piece, f'{name}, piece {i}', 'exec'), names)
  return names


WITH_CODE = [page for page in PAGES if code_of(page)]
# They train runs, or compile.
SLOW = ('concepts/execution.md',) + tuple(
  f'guides/{name}.md' for name in ('apf', 'codecs', 'fedpara', 'own_data', 'resume', 'tff_program')
)


def test_guides_have_code():
  named = {name_of(page) for page in WITH_CODE}
  guides = ('own_data', 'tff_program', 'apf', 'fedpara', 'codecs', 'resume')
  added = ('codec', 'method', 'task', 'layer')
  assert {f'guides/{g}.md' for g in guides} | {f'contributing/{a}.md' for a in added} <= named
  assert set(SLOW) <= named


@pytest.mark.parametrize(
  'page',
  [pytest.param(p, marks=[pytest.mark.slow] * (name_of(p) in SLOW)) for p in WITH_CODE],
  ids=name_of,
)
def test_code(page, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  run(code_of(page), name_of(page))


@pytest.mark.slow
@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=name_of)
def test_notebook(notebook, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  matplotlib.use('agg')
  pieces = [''.join(cell['source']) for cell in cells(notebook, 'code')]
  # Lines for Jupyter alone.
  run([re.sub(r'^%.*$', '', piece, flags=re.MULTILINE) for piece in pieces], name_of(notebook))
  plt.close('all')


def test_notebooks_have_outputs_and_pictures():
  assert len(NOTEBOOKS) == 3
  for notebook in NOTEBOOKS:
    outputs = [output for cell in cells(notebook, 'code') for output in cell['outputs']]
    assert not [output for output in outputs if output['output_type'] == 'error']
    assert any('image/png' in output.get('data', {}) for output in outputs), notebook
    assert any(output['output_type'] == 'stream' for output in outputs), notebook
    counts = [cell['execution_count'] for cell in cells(notebook, 'code')]
    assert counts == [*range(1, len(counts) + 1)], f'{notebook} was not run from top to bottom'


DOCSTRING = """What it is, |x| * 2.

  kinds:
    payload   numbers
    flag      decisions
  Settings of *one* thing:
    rate: of the `server`, which
      may be 0.
  And more.

  Args:
    **bits: As `price(flag=1)`.

  Raises:
    TypeError or ValueError: If x_ is bad.
"""
CONVERTED = r"""What it is, \|x\| \* 2.

kinds:

::

  payload   numbers
  flag      decisions

Settings of *one* thing:

* **rate**: of the ``server``, which
  may be 0.

And more.

Args:
  **bits: As ``price(flag=1)``.

Raises:
  TypeError or ValueError: If x\_ is bad.

"""


def test_docstrings_become_markup():
  spec = importlib.util.spec_from_file_location('docstrings', DOCS / '_ext' / 'docstrings.py')
  docstrings = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(docstrings)
  converted = docstrings.convert(inspect.cleandoc(DOCSTRING).splitlines())
  squeezed = re.sub(r'\n{3,}', '\n\n', '\n'.join(converted))
  assert squeezed.strip() == CONVERTED.strip()


PATH = r'(?<![\w/])(?:experiments|tff_lowrank|benchmarks|tests)/[\w/]+(?:\.\w+)?'


def is_example(path):
  """Whether a worked example names a file that is to be made."""
  return 'NAME' in path or path.startswith(('tests/x', 'tff_lowrank/x'))


def test_paths_exist():
  for page in (*PAGES, *NOTEBOOKS, ROOT / 'README.md'):
    text = page.read_text()
    named = {path for path in re.findall(PATH, text) if not is_example(path)}
    assert not {path for path in named if not (ROOT / path).exists()}, page
    for module in re.findall(r'python -m ((?:tff_lowrank|benchmarks|experiments)[\w.]*)', text):
      path = ROOT / module.replace('.', '/')
      assert path.with_suffix('.py').is_file() or (path / '__main__.py').is_file(), module
  stages = (DOCS / 'concepts' / 'execution.md').read_text()
  named = set(re.findall(r'`(\w+\.py)`', stages))
  assert len(named) > 15
  assert all((ROOT / 'tff_lowrank' / 'execution' / name).is_file() for name in named)


def build(docs, out):
  command = [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html']
  environment = dict(os.environ, TF_CPP_MIN_LOG_LEVEL='3', PYTHONPATH=str(ROOT))
  done = subprocess.run(
    [*command, str(docs), str(out)], env=environment, capture_output=True, text=True, check=False
  )
  return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_site_builds_and_needs_no_network(tmp_path):
  status, said = build(DOCS, tmp_path)
  assert not status, said
  pages = sorted(tmp_path.rglob('*.html'))
  assert len(pages) > len(PAGES)
  for page in pages:
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', page.read_text())
    assert not [address for address in loaded if re.match(r'(https?:)?//', address)], page
  table = html.unescape((tmp_path / 'reference' / 'settings.html').read_text())
  for record in methods.METHODS.values():
    shown = [record.name, record.about, record.source, *(f'--{n}' for n in record.setting_names)]
    assert all(text in table for text in shown), record.name


@pytest.mark.slow
def test_broken_links_and_undocumented_names_are_errors(tmp_path):
  docs = tmp_path / 'docs'
  shutil.copytree(DOCS, docs)
  shutil.copytree(ROOT / 'experiments' / 'results', tmp_path / 'experiments' / 'results')
  shutil.copytree(ROOT / 'benchmarks' / 'results', tmp_path / 'benchmarks' / 'results')
  (docs / 'reference' / 'client_state.md').write_text('# `tff_lowrank.client_state`\n')
  with (docs / 'glossary.md').open('a') as page:
    page.write('\nSee {doc}`no/such/page` and [this](no_such_file.md).\n')
  status, said = build(docs, tmp_path / 'out')
  assert status
  assert 'public name without documentation: tff_lowrank.client_state.MemoryStore' in said
  assert 'no/such/page' in said and 'no_such_file' in said
