"""The README's code runs as it stands."""

import pathlib
import re

import numpy as np
import tensorflow as tf

from tff_lowrank import methods
from tff_lowrank import runs

README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()


def test_example(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # One trains into a folder.
  examples = re.findall(r'```python\n(.*?)```', README, re.S)
  own = next(code for code in examples if 'from_client_data' in code)
  assert len(own.splitlines()) <= 40
  first = next(code for code in examples if 'lbgm' in code and code is not own)
  assert len([line for line in first.splitlines() if line]) <= 20
  keras_model = tf.keras.Sequential([tf.keras.layers.Dense(64, input_shape=(32,))])
  names = dict(keras_model=keras_model)
  for example in examples:
    if 'stock_context' not in example:  # It would leave the tests' context.
      exec(compile(example, 'README.md', 'exec'), names)
  printed = capsys.readouterr().out
  assert all(word in printed for word in ('loss', 'payload', 'scalar_fraction'))
  x = tf.ones([1, 32])
  np.testing.assert_allclose(names['served'](x), names['twin'](x), atol=1e-5)
  assert 'freezing' in str(names['process'].initialize.type_signature)
  assert (tmp_path / 'runs' / 'tumours' / 'report.html').exists()
  cautious = runs.train('digits', names['RECORD'], tmp_path / 'own', rounds=1)
  assert cautious.settings['cautious_rate'] == 0.5


def test_the_table_of_methods_is_that_of_the_records():
  for record in methods.METHODS.values():
    ways = (('up', record.takes_uplink), ('down', record.takes_downlink))
    codecs = ' and '.join(way for way, is_taken in ways if is_taken) or 'none'
    flags = ', '.join(f'`--{name}`' for name in record.setting_names)
    assert f'| `{record.name}` | {record.about} | {record.source} | {flags} | {codecs} |' in README


def test_paths_and_presets_exist():
  root = pathlib.Path(__file__).parents[1]
  named = re.findall(r'experiments/presets/\w+\.flags|tff_lowrank/\w+/\w+\.py', README)
  assert named and all((root / path).is_file() for path in named)
  for module in re.findall(r'python -m ([\w.]+)', README):
    assert (root / (module.replace('.', '/') + '.py')).is_file(), module


def test_results_are_of_presets():
  experiments = pathlib.Path(__file__).parents[1] / 'experiments'
  text = (experiments / 'results' / 'README.md').read_text()
  named = {path.stem for path in (experiments / 'results').glob('*.csv')}
  presets = {path.stem for path in (experiments / 'presets').glob('*.flags')}
  assert named and named <= presets
  assert all(f'`{name}' in text for name in named)
  assert set(re.findall(r'(\w+)\.flags', text)) <= presets | {'NAME'}
