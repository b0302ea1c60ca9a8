import pytest

from tff_lowrank.simulation import file_operations


def test_short_writes_are_continued(tmp_path, monkeypatch):
  write = file_operations.write
  monkeypatch.setattr(file_operations, 'write', lambda fd, data: write(fd, data[:3]))
  file_operations.write_new(tmp_path / 'file', b'0123456789')
  assert (tmp_path / 'file').read_bytes() == b'0123456789'


def test_a_system_that_writes_nothing_is_an_error(tmp_path, monkeypatch):
  monkeypatch.setattr(file_operations, 'write', lambda fd, data: 0)
  with pytest.raises(OSError, match='wrote none of 2 bytes'):
    file_operations.write_new(tmp_path / 'file', b'ab')


def test_an_existing_file_is_not_written_over(tmp_path):
  (tmp_path / 'file').write_bytes(b'old')
  with pytest.raises(FileExistsError):
    file_operations.write_new(tmp_path / 'file', b'new')


@pytest.mark.parametrize('step', ['write', 'fsync', 'rename'])
def test_replace_is_all_or_nothing(tmp_path, monkeypatch, step):
  file_operations.replace(tmp_path / 'file', b'old')

  def fail(*arguments):
    raise OSError(5, 'Input/output error')

  with monkeypatch.context() as patch, pytest.raises(OSError):
    patch.setattr(file_operations, step, fail)
    file_operations.replace(tmp_path / 'file', b'new')
  assert [p.read_bytes() for p in tmp_path.iterdir()] == [b'old']
  file_operations.replace(tmp_path / 'file', b'new')
  assert (tmp_path / 'file').read_bytes() == b'new'
