import os

import pytest

from tff_lowrank import files


def test_whatever_a_reader_raises_names_the_file_and_what_was_expected(tmp_path):
  path = tmp_path / 'a.npz'
  path.write_bytes(b'x')
  for error in (KeyError('y'), RecursionError('deep'), EOFError(), OSError('parser says no')):
    with pytest.raises(files.FileError, match='a.npz: expected a NumPy archive, found') as caught:
      with files.reading(path, 'a NumPy archive'):
        raise error
    assert caught.value.path == path
    assert caught.value.expected == 'a NumPy archive'
    assert type(error).__name__ in caught.value.found


def test_what_the_system_says_passes(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent'):
    with files.reading(tmp_path / 'absent', 'text'):
      pass
  path = tmp_path / 'a'
  path.touch()
  with pytest.raises(OSError, match='No space left'):
    with files.reading(path, 'text'):
      raise OSError(28, 'No space left on device')


def test_only_regular_files_are_read(tmp_path):
  fifo = tmp_path / 'fifo'
  os.mkfifo(fifo)
  for path, found in ((fifo, 'a FIFO'), (tmp_path, 'a folder'), ('/dev/null', 'a device')):
    with pytest.raises(files.FileError, match=f'expected text, found {found}'):
      with files.reading(path, 'text'):
        raise AssertionError('It must not be opened.')
