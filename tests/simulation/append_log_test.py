import pytest

from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import file_operations


@pytest.fixture
def log(tmp_path):
  opened = append_log.AppendLog(tmp_path / 'log')
  opened.rewind()
  yield opened
  opened.close()


def test_rewinds_to_a_position_and_goes_on(log):
  log.append(b'one')
  position = log.sync()
  log.append(b'two')
  log.rewind(position)
  assert log.path.read_bytes() == b'one'
  log.append(b'three')
  assert log.path.read_bytes() == b'onethree'
  other = append_log.AppendLog(log.path)
  assert other.holds(position) and other.holds(log.sync()) and other.holds(append_log.START)
  other.rewind()
  assert other.is_empty and not other.holds(position)
  other.close()


def test_changed_and_shortened_files_are_noticed(log):
  log.append(b'one two')
  position = log.sync()
  for content in (b'one-two', b'one'):
    log.path.write_bytes(content)
    assert not log.holds(position)
    with pytest.raises(ValueError, match='its first 7 bytes have changed since they were written'):
      log.rewind(position)


def test_a_failed_append_leaves_no_half_record(log, monkeypatch):
  log.append(b'whole')
  write = file_operations.write

  def full(descriptor, data):
    if len(data) < 6:
      raise OSError(28, 'No space left on device')
    return write(descriptor, data[:3])

  with monkeypatch.context() as patch, pytest.raises(OSError, match='No space left'):
    patch.setattr(file_operations, 'write', full)
    log.append(b'half of it')
  assert log.path.read_bytes() == b'whole'
  log.append(b' again')
  assert log.holds(log.sync()) and log.path.read_bytes() == b'whole again'


def test_a_deleted_file_is_noticed(log):
  log.path.unlink()
  with pytest.raises(FileNotFoundError, match='was deleted while it was being written'):
    log.sync()
