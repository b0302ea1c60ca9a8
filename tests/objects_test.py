import hashlib
import sys

import pytest

from tff_lowrank import objects


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """The current folder, which is not in `sys.path`."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
  yield tmp_path
  for name in [name for name in sys.modules if name.startswith('own_')]:
    del sys.modules[name]


def test_names():
  assert objects.is_name('a:b') and objects.is_name('a.b.c:D_1')
  for text in ('a', 'a:', ':b', 'a:b:c', 'a-b:c', 'a..b:c', 'lbgm:rate=1', ''):
    assert not objects.is_name(text), text
    with pytest.raises(ValueError, match='Expected package.module:NAME'):
      objects.load(text)


def test_loads_from_the_current_folder(folder):
  (folder / 'own_things.py').write_text('THING = [1, 2]\n')
  assert objects.load('own_things:THING') == [1, 2]
  (folder / 'own_things.py').write_text('THING = [3]\n')  # Imported once, as all modules are.
  assert objects.load('own_things:THING') == [1, 2]


def test_source_is_the_file(folder):
  path = folder / 'own_source.py'
  path.write_text('THING = 1\n')
  sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
  assert objects.source('own_source:THING') == dict(file=str(path), sha256=sha256)


def test_source_of_an_installed_distribution():
  found = objects.source('absl.flags:DEFINE_string')
  assert found['distribution'] == 'absl-py' and found['version'] and found['sha256']


def test_what_is_not_there(folder):
  (folder / 'own_broken.py').write_text('import own_missing\n')
  (folder / 'own_empty.py').write_text('')
  with pytest.raises(ValueError, match="no module 'own_nothing' in sys.path or the current folder"):
    objects.load('own_nothing:X')
  with pytest.raises(ValueError, match="'own_broken' imports 'own_missing', which cannot be found"):
    objects.load('own_broken:X')
  with pytest.raises(ValueError, match="The module 'own_empty' has no 'X'"):
    objects.load('own_empty:X')
