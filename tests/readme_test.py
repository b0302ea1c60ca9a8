"""The README's code runs as it stands."""

import pathlib
import re

README = (pathlib.Path(__file__).parents[1] / 'README.md').read_text()


def test_example(capsys):
  example = next(
    code for code in re.findall(r'```python\n(.*?)```', README, re.S) if 'lbgm' in code
  )
  assert len([line for line in example.splitlines() if line]) <= 20
  exec(compile(example, 'README.md', 'exec'), {})
  printed = capsys.readouterr().out
  assert all(word in printed for word in ('loss', 'payload', 'scalar_fraction'))


def test_paths_and_presets_exist():
  root = pathlib.Path(__file__).parents[1]
  named = re.findall(r'experiments/presets/\w+\.flags|tff_lowrank/\w+/\w+\.py', README)
  assert named and all((root / path).is_file() for path in named)
  for module in re.findall(r'python -m ([\w.]+)', README):
    assert (root / (module.replace('.', '/') + '.py')).is_file(), module
