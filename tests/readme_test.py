"""The README: it is short, its code runs as it stands, and what it names exists."""

import pathlib
import re

import numpy as np
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def test_is_short():
  assert len(README.splitlines()) <= 150
  examples = re.findall(r'```python\n(.*?)```', README, re.S)
  assert len(examples) == 3
  assert all(len(example.splitlines()) <= 20 for example in examples)


def test_examples(capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # One trains into a folder.
  names = {}
  for example in re.findall(r'```python\n(.*?)```', README, re.S):
    exec(compile(example, 'README.md', 'exec'), names)
  printed = capsys.readouterr().out
  assert all(word in printed for word in ('uplink_bits', '2 layers converted', '| lbgm | 1 | 10 |'))
  x = tf.ones([1, 64])
  np.testing.assert_allclose(names['served'](x), names['twin'](x), atol=1e-5)
  assert (tmp_path / 'runs' / 'tumours' / 'report.html').exists()


def test_links_lead_somewhere():
  links = re.findall(r'\]\(([^)#]+)\)', README)
  assert len(links) > 10
  assert all('://' in link or (ROOT / link).exists() for link in links)


def test_results_are_of_presets():
  experiments = ROOT / 'experiments'
  text = (experiments / 'results' / 'README.md').read_text()
  named = {path.stem for path in (experiments / 'results').glob('*.csv')}
  presets = {path.stem for path in (experiments / 'presets').glob('*.flags')}
  curves = {f'{name}_curves' for name in named}
  named -= curves  # They stand beside their tables.
  assert named and named <= presets
  assert all(f'`{name}' in text for name in named)
  assert set(re.findall(r'(\w+)\.flags', text)) <= presets | {'NAME'}
