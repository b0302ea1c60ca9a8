import pathlib
import shlex

from absl import flags
from absl.testing import flagsaver
import pytest

from experiments import compare
from experiments import flag_groups
from experiments import train

FOLDER = pathlib.Path(train.__file__).parent / 'presets'
PRESETS = sorted(FOLDER.glob('*.flags'))


@pytest.mark.parametrize('preset', PRESETS, ids=lambda path: path.stem)
def test_preset_parses_and_makes_specs(preset):
  with flagsaver.flagsaver():
    flags.FLAGS.unparse_flags()
    flags.FLAGS(['', f'--flagfile={preset}', '--output_dir=x'])
    text = preset.read_text()
    assert text.startswith('#'), 'a preset says what it is'
    given = [line.split('=')[0].lstrip('-') for line in shlex.split(text, comments=True)]
    assert len(set(given)) == len(given)
    if 'methods' in given:
      for label in compare.split_methods(flags.FLAGS.methods):
        method, overrides = compare.parse_method(label)
        flag_groups.run_spec(method, overrides)
    else:
      flag_groups.run_spec(flags.FLAGS.method)


def test_there_are_presets():
  assert PRESETS
