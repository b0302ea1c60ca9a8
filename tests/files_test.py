import bz2
import errno
import gzip
import importlib
import io
import lzma
import os
import tarfile

import pytest

from tff_lowrank import files


def test_whatever_a_reader_raises_names_the_file_and_what_was_expected(tmp_path):
  path = tmp_path / 'a.npz'
  path.write_bytes(b'x')
  errors = [KeyError('y'), RecursionError('deep'), EOFError(), OSError('parser says no')]
  # Of a seek to where a damaged file says that something is.
  errors.append(OSError(errno.EINVAL, 'Invalid argument'))
  for error in errors:
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
  with pytest.raises(ModuleNotFoundError, match='parser_of_text'):
    with files.reading(path, 'text'):
      importlib.import_module('parser_of_text')


def test_only_regular_files_are_read(tmp_path):
  fifo = tmp_path / 'fifo'
  os.mkfifo(fifo)
  for path, found in ((fifo, 'a FIFO'), (tmp_path, 'a folder'), ('/dev/null', 'a device')):
    with pytest.raises(files.FileError, match=f'expected text, found {found}'):
      with files.reading(path, 'text'):
        raise AssertionError('It must not be opened.')


def test_an_error_is_one_line_whatever_is_in_it(tmp_path):
  error = files.FileError(tmp_path / 'a\nb', 'text', 'this:\n- and\n- that.' + 'x' * 9999)
  assert len(str(error).splitlines()) == 1
  assert repr(str(tmp_path / 'a\nb')) in str(error) and 'found this: - and - that' in str(error)
  assert len(error.found) < 310


COMPRESS = {
  '.gz': gzip.compress,
  '.bz2': bz2.compress,
  '.lzma': lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
  '.bin': bytes,
}


@pytest.mark.parametrize('suffix', COMPRESS)
def test_files_are_decompressed_up_to_a_bound(tmp_path, suffix):
  path = tmp_path / f'a{suffix}'
  path.write_bytes(COMPRESS[suffix](bytes(1 << 24)))
  with files.opening(path, 'zeros', 1 << 24) as stream:
    assert stream.read() == bytes(1 << 24)
  got = 0
  with pytest.raises(files.FileError, match='expected zeros, found more than 100,000 bytes'):
    with files.opening(path, 'zeros', 100_000) as stream:
      while part := stream.read(1000):
        got += len(part)
  assert got <= 100_000
  if suffix != '.bin':
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(files.FileError, match='EOFError'):
      with files.opening(path, 'zeros', 1 << 24) as stream:
        stream.read()


def test_archives_are_checked_to_their_end(tmp_path):
  written = io.BytesIO()
  with tarfile.open(fileobj=written, mode='w') as archive:
    member = tarfile.TarInfo('x')
    member.size = 5
    archive.addfile(member, io.BytesIO(b'hello'))
  path = tmp_path / 'a.tar.gz'
  whole = gzip.compress(written.getvalue(), 0)  # Stored, so that only the checksum sees a change.
  for content in (whole, whole.replace(b'hello', b'jello')):
    path.write_bytes(content)
    try:
      with files.opening_tar(path, 1 << 20) as archive:
        assert archive.extractfile(archive.next()).read().endswith(b'ello')
    except files.FileError as e:
      assert content != whole and 'expected a complete tar archive, found BadGzipFile: CRC' in str(
        e
      )
    else:
      assert content == whole
