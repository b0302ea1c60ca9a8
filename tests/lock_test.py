"""The lock against what is imported: at the top of modules, inside of functions, and by others."""

import ast
import gzip
import importlib
from importlib import metadata
import pathlib
import re
import shutil
import sys
import tomllib

from packaging import utils
import pytest
import tensorflow_datasets as tfds

from tff_lowrank.datasets import mnist

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCKED = set(re.findall(r'^([a-z0-9-]+)==', (ROOT / 'requirements.lock').read_text(), re.MULTILINE))
OURS = ('tff_lowrank', 'experiments', 'benchmarks', 'tools', 'tests')


def imports(tree):
  """The modules that are imported anywhere in a syntax tree, but relative ones."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      yield node.module


def test_the_lock_has_all_that_we_import():
  paths = [path for package in OURS for path in (ROOT / package).rglob('*.py')]
  modules = {m.partition('.')[0] for path in paths for m in imports(ast.parse(path.read_text()))}
  distributions = metadata.packages_distributions()
  missing = {
    module
    for module in modules - set(sys.stdlib_module_names) - set(OURS)
    if not LOCKED & {utils.canonicalize_name(d) for d in distributions.get(module, ())}
  }
  # Extras are imported where they are asked for, and an error names the extra.
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  assert missing <= {re.split(r'[^\w-]', r)[0] for rs in extras.values() for r in rs}


# What tensorflow-datasets imports on the way to data sets in other formats only.
OF_OTHER_DATA = {'apache_beam', 'mlcroissant', 'tf_agents', 'datasets', 'huggingface_hub'}


def test_the_lock_has_all_that_mnist_makes_tensorflow_datasets_import_late():
  tfds.builder('mnist')
  loaded = [m for name, m in sys.modules.items() if name.partition('.')[0] == tfds.__name__]
  late = set()
  for path in {m.__file__ for m in loaded if getattr(m, '__file__', None)}:
    for node in ast.walk(ast.parse(pathlib.Path(path).read_text())):
      if isinstance(node, ast.With) and 'lazy_imports' in ast.unparse(node.items[0]):
        late.update(imports(node))
  assert {'importlib_resources', 'tensorflow', 'array_record.python'} <= late
  for module in late - OF_OTHER_DATA:
    importlib.import_module(module)


def prepared(folder, monkeypatch, download):
  monkeypatch.setattr(tfds.download.DownloadManager, 'download_and_extract', download)
  tfds.builder('mnist', data_dir=folder).download_and_prepare()


def test_mnist_comes_as_far_as_the_network(tmp_path, monkeypatch):
  def download(manager, urls):
    raise ConnectionError(', '.join(urls.values()))

  with pytest.raises(ConnectionError, match='train-labels-idx1-ubyte.gz'):
    prepared(tmp_path, monkeypatch, download)


@pytest.mark.slow
def test_mnist_by_tensorflow_datasets_is_that_of_its_files(shared_data, tmp_path, monkeypatch):
  def download(manager, urls):
    found = {}
    for key, url in urls.items():
      name = url.rpartition('/')[2].removesuffix('.gz')
      found[key] = tmp_path / name
      with gzip.open(shared_data / 'mnist' / f'{name}.gz') as source, found[key].open('wb') as file:
        shutil.copyfileobj(source, file)
    return found

  prepared(tmp_path, monkeypatch, download)
  load = tfds.load
  monkeypatch.setattr(tfds, 'load', lambda *args, **kw: load(*args, **kw, data_dir=tmp_path))
  expected = mnist.load_arrays('mnist', str(shared_data))
  for found, whole in zip(mnist.load_arrays('mnist'), expected, strict=True):
    # In another order.
    assert sorted(zip(found.y, map(bytes, found.x), strict=True)) == sorted(
      zip(whole.y, map(bytes, whole.x), strict=True)
    )
