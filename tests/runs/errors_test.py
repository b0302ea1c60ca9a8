import pytest

from tff_lowrank import files
from tff_lowrank import settings
from tff_lowrank.runs import errors
from tff_lowrank.simulation import manifest

ABOUT_FILES = (
  manifest.MismatchError('another run'),
  manifest.DamagedError('a checkpoint'),
  files.FileError('x.csv', 'a table', 'nothing'),
)


@pytest.mark.parametrize('error', ABOUT_FILES)
@pytest.mark.parametrize('change', [errors.as_setting_errors, errors.as_damage])
def test_errors_about_files_pass_as_they_are(error, change):
  with pytest.raises(type(error)) as raised, change():
    raise error
  assert raised.value is error


def test_other_value_errors_are_what_was_asked_for_or_damage():
  with pytest.raises(settings.SettingError, match='^task: nothing$') as raised:
    with errors.as_setting_errors('task'):
      raise ValueError('nothing')
  assert str(raised.value.__cause__) == 'nothing'
  with pytest.raises(settings.SettingError, match='^nothing$'), errors.as_setting_errors():
    raise ValueError('nothing')
  with pytest.raises(manifest.DamagedError, match='^nothing$'), errors.as_damage():
    raise ValueError('nothing')


def test_other_errors_pass_as_they_are():
  for change in (errors.as_setting_errors, errors.as_damage):
    with pytest.raises(KeyError), change():
      raise KeyError('x')
