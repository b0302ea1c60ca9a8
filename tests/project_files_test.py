"""What a project says of itself, against what it is."""

import pathlib
import re
import tomllib

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']


def test_citation_and_changelog_are_of_this_version():
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert citation['version'] == PROJECT['version']
  assert citation['license'] == PROJECT['license']['text']
  changes = (ROOT / 'CHANGELOG.md').read_text()
  version = re.escape(PROJECT['version'])
  assert re.search(rf'^## \[{version}\]|will be {version}', changes, re.M)


def test_contributing_places_every_package():
  text = (ROOT / 'CONTRIBUTING.md').read_text()
  rows = re.findall(r'^\| (`.*) \|.*\|$', text, re.M)
  named = re.findall(r'`(\w+)`', ' '.join(rows))
  packages = {path.parent.name for path in (ROOT / 'tff_lowrank').glob('*/__init__.py')}
  assert len(named) == len(set(named)) and packages <= set(named)
  found = {path.stem for path in (ROOT / 'tff_lowrank').iterdir()}
  assert set(named) <= found


def test_commands_that_are_named_exist():
  commands = set(re.findall(r'^  ([a-z-]+)\)', (ROOT / 'dev').read_text(), re.M)) | {'help'}
  files = ['CONTRIBUTING.md', 'CHANGELOG.md', '.ci/run', '.github/PULL_REQUEST_TEMPLATE.md']
  named = {c for name in files for c in re.findall(r'\./dev ([a-z-]+)', (ROOT / name).read_text())}
  assert {'lint', 'test'} <= named <= commands


def test_ci_lints_and_tests():
  commands = re.findall(r'^(?:exec )?\./dev ([a-z-]+)', (ROOT / '.ci' / 'run').read_text(), re.M)
  assert commands.index('lint') < commands.index('test')


def test_issue_forms_have_what_they_need():
  for path in (ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml'):
    form = yaml.safe_load(path.read_text())
    if path.name == 'config.yml':
      continue
    assert {'name', 'description', 'body'} <= form.keys(), path
    ids = [part['id'] for part in form['body']]
    assert len(ids) == len(set(ids)) and all('label' in p['attributes'] for p in form['body']), path
