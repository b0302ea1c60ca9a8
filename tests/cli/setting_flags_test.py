from absl import flags
import pytest

from tests.cli import binaries
from tff_lowrank import settings
from tff_lowrank.cli import setting_flags


@pytest.fixture(autouse=True)
def no_flags_are_left():
  with binaries.no_flags_set():
    yield


def define(kind, default, **limits):
  """The flag of a setting `probe`."""
  setting = settings.Setting('probe', kind, default, 'For this test.', **limits)
  setting_flags.define(setting)
  return flags.FLAGS['probe']


@pytest.mark.parametrize(
  'kind, default, limits, text, value',
  [
    (bool, False, {}, 'true', True),
    (int, 3, dict(at_least=1), '1', 1),
    (int, None, dict(is_optional=True), '-7', -7),
    (float, 0.5, dict(above=0, at_most=1), '1e-3', 0.001),
    (float, None, dict(is_optional=True), '2', 2.0),
    (str, 'a', dict(choices=('a', 'b')), 'b', 'b'),
    (str, None, dict(is_optional=True, is_path=True), 'a/b', 'a/b'),
    (str, '', {}, 'x=y,z', 'x=y,z'),
  ],
)
def test_every_kind_of_setting_is_a_flag(kind, default, limits, text, value):
  flag = define(kind, default, **limits)
  assert flag.default == flag.value == default and 'For this test.' in flag.help
  flag.parse(text)
  assert flag.value == value and type(flag.value) is kind


@pytest.mark.parametrize(
  'kind, default, limits, text',
  [
    (bool, False, {}, 'perhaps'),
    (int, 3, dict(at_least=1), '0'),
    (int, 3, {}, '1.5'),
    (float, 0.5, dict(above=0, at_most=1), '1.1'),
    (float, 0.5, dict(above=0, at_most=1), '-0.1'),
    (float, 0.5, dict(at_least=0, below=1), '1.1'),
    (float, 0.5, {}, 'nan'),
    (str, 'a', dict(choices=('a', 'b')), 'c'),
    (str, None, dict(is_path=True), '\0'),
  ],
)
def test_values_that_a_setting_cannot_have(kind, default, limits, text):
  with pytest.raises(flags.IllegalFlagValueError, match='flag --probe='):
    define(kind, default, **limits).parse(text)


def test_one_setting_of_two_methods_is_one_flag():
  assert define(int, 3) is define(int, 3)


def test_refuses_a_name_that_is_taken():
  define(int, 3)
  with pytest.raises(ValueError, match='There is already a flag named probe'):
    define(int, 4)
  with pytest.raises(ValueError, match='There is already a flag named v'):
    setting_flags.define(settings.Setting('v', int, 3, 'Of absl.'))
