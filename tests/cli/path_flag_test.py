import pathlib

from absl import flags
import pytest

from tff_lowrank.cli import path_flag


@pytest.fixture
def home(tmp_path, monkeypatch):
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


def test_what_is_expanded(home):
  assert path_flag.expand('~/x') == str(home / 'x')
  assert pathlib.Path(path_flag.expand('~root')).is_absolute()
  for name in ('~nobody-is-called-so/x', './~/x', 'x~', ''):
    assert path_flag.expand(name) == name
  with pytest.raises(ValueError, match='NUL'):
    path_flag.expand('a\0b')


def test_a_flag_of_a_path(home):
  values = flags.FlagValues()
  holder = path_flag.define('place', None, 'A place.', flag_values=values)
  values(['x'])
  assert holder.value is None
  values(['x', '--place=~/a,b'])
  assert holder.value == str(home / 'a,b')
  assert values['place'].serialize() == f'--place={home}/a,b'
  with pytest.raises(flags.IllegalFlagValueError, match='flag --place=.*NUL'):
    values(['x', '--place=a\0b'])
