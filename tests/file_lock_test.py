import os

import pytest

from tff_lowrank import file_lock


def test_a_file_is_held_until_it_is_closed(tmp_path):
  held = file_lock.hold(tmp_path / 'lock')
  with pytest.raises(file_lock.InUseError, match=f'lock is in use by process {os.getpid()}') as e:
    file_lock.hold(tmp_path / 'lock')
  assert e.value.holder == str(os.getpid())
  os.close(held)
  os.close(file_lock.hold(tmp_path / 'lock'))


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError):
    file_lock.hold(tmp_path / 'no' / 'lock')
