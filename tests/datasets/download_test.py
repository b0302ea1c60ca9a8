import base64
import hashlib
import http.server
import io
import lzma
import os
import tarfile
import threading

import pytest

from tff_lowrank import files
from tff_lowrank.datasets import download

CONTENT = bytes(range(256)) * 5000


class Handler(http.server.BaseHTTPRequestHandler):
  """Serves `server.files` with ranges; sends at most `server.limit` bytes of a file."""

  def do_GET(self):
    server = self.server
    server.requests.append(self.headers.get('Range'))
    content = server.files.get(self.path)
    if content is None:
      self.send_error(404)
      return
    start = 0
    if server.has_ranges and 'Range' in self.headers:
      start = int(self.headers['Range'].removeprefix('bytes=').removesuffix('-'))
      if start >= len(content):
        self.send_error(416)
        return
      self.send_response(206)
      self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
    else:
      self.send_response(200)
    self.send_header('Content-Length', str(len(content) - start))
    for header in server.more_headers:
      self.send_header(*header)
    self.end_headers()
    self.wfile.write(content[start:][: server.limit])

  def log_message(self, *args):
    pass


@pytest.fixture
def server():
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
    server.files, server.requests, server.more_headers = {}, [], []
    server.has_ranges, server.limit = True, None
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def serve(server, name, content, **more):
  server.files[f'/{name}'] = content
  return download.RemoteFile(f'http://127.0.0.1:{server.server_port}/{name}', **more)


def test_fetches_once(server, tmp_path):
  md5 = hashlib.md5(CONTENT).hexdigest()
  remote = serve(server, 'a.bin', CONTENT, checksum=f'md5:{md5}')
  path = download.fetch(remote, tmp_path / 'new')
  assert path == tmp_path / 'new' / 'a.bin' and path.read_bytes() == CONTENT
  download.fetch(remote, tmp_path / 'new')
  assert server.requests == [None]
  assert [p.name for p in path.parent.iterdir()] == ['a.bin']


@pytest.mark.parametrize('has_ranges', [True, False])
def test_goes_on_after_an_interruption(server, tmp_path, has_ranges):
  remote = serve(server, 'a.bin', CONTENT)
  server.has_ranges, server.limit = has_ranges, 500_000
  with pytest.raises(ConnectionError, match='500000 of 1280000 bytes.*put a.bin into'):
    download.fetch(remote, tmp_path)
  assert not (tmp_path / 'a.bin').exists()
  server.limit = None
  assert download.fetch(remote, tmp_path).read_bytes() == CONTENT
  assert server.requests == [None, 'bytes=500000-']


def test_begins_again_if_the_part_is_no_part(server, tmp_path):
  remote = serve(server, 'a.bin', CONTENT)
  (tmp_path / 'a.bin.part').write_bytes(CONTENT + b'more')
  assert download.fetch(remote, tmp_path).read_bytes() == CONTENT
  assert server.requests == ['bytes=1280004-', None]


def test_other_content_is_refused_and_deleted(server, tmp_path):
  remote = serve(server, 'a.bin', CONTENT, checksum='sha256:00')
  with pytest.raises(
    ValueError, match='a.bin.part: expected sha256 00 of http.*, found .* try again'
  ):
    download.fetch(remote, tmp_path)
  assert not list(tmp_path.iterdir())


def test_checksum_that_the_server_sends(server, tmp_path):
  digest = base64.b64encode(hashlib.md5(b'other').digest()).decode()
  server.more_headers = [('x-goog-hash', 'crc32c=AAAAAA=='), ('x-goog-hash', f'md5={digest}')]
  with pytest.raises(ValueError, match=f'expected md5 {hashlib.md5(b"other").hexdigest()} of http'):
    download.fetch(serve(server, 'a.bin', CONTENT), tmp_path)
  assert download.fetch(serve(server, 'b.bin', b'other'), tmp_path).read_bytes() == b'other'


def test_what_cannot_be_fetched_is_asked_for(server, tmp_path):
  remote = serve(server, 'a.sqlite.lzma', CONTENT)
  server.files.clear()
  with pytest.raises(ConnectionError, match=r'404.*put a.sqlite into'):
    download.fetch(remote, tmp_path)
  nobody = download.RemoteFile('http://127.0.0.1:1/a.bin')
  with pytest.raises(ConnectionError, match='could not be downloaded .*put a.bin into'):
    download.fetch(nobody, tmp_path)


def test_decompresses(server, tmp_path):
  content = lzma.compress(CONTENT, format=lzma.FORMAT_ALONE)
  path = download.fetch(serve(server, 'a.sqlite.lzma', content), tmp_path)
  assert path.read_bytes() == CONTENT
  assert [p.name for p in tmp_path.iterdir()] == ['a.sqlite']
  with pytest.raises(ValueError, match='b.lzma: expected a complete LZMA file'):
    download.fetch(serve(server, 'b.lzma', content[:-9]), tmp_path)
  assert not (tmp_path / 'b').exists()


def archive(*members):
  """A .tar.bz2 of (name, content) or TarInfo."""
  stream = io.BytesIO()
  with tarfile.open(fileobj=stream, mode='w:bz2') as tar:
    for member in members:
      if isinstance(member, tarfile.TarInfo):
        tar.addfile(member)
      else:
        info = tarfile.TarInfo(member[0])
        info.size = len(member[1])
        tar.addfile(info, io.BytesIO(member[1]))
  return stream.getvalue()


def link(kind):
  info = tarfile.TarInfo('link')
  info.type, info.linkname = kind, '/etc/passwd'
  return info


def test_extracts(server, tmp_path):
  content = archive(('words', b'a 1\n'), ('more/x', b'y'))
  assert download.fetch(serve(server, 'words.tar.bz2', content), tmp_path).read_bytes() == b'a 1\n'
  assert (tmp_path / 'more' / 'x').read_bytes() == b'y'
  assert not (tmp_path / 'words.tar.bz2').exists()
  with pytest.raises(ValueError, match='expected tags in it, found none'):
    download.fetch(serve(server, 'tags.tar.bz2', content), tmp_path)


@pytest.mark.parametrize(
  'member',
  [('../outside', b'x'), ('/tmp/outside', b'x'), ('a/../../outside', b'x'), link(tarfile.SYMTYPE),
   link(tarfile.LNKTYPE), link(tarfile.FIFOTYPE)],
)  # fmt: skip
def test_refuses_to_write_elsewhere(tmp_path, member):
  folder = tmp_path / 'folder'
  folder.mkdir()
  path = tmp_path / 'x.tar.bz2'
  path.write_bytes(archive(('words', b'a'), member))
  with pytest.raises(ValueError, match='expected only regular files'):
    download.extract(path, folder, 1 << 20)
  assert not list(folder.iterdir()) and not (tmp_path / 'outside').exists()


def test_damaged_archives_are_refused(tmp_path):
  path = tmp_path / 'x.tar.bz2'
  path.write_bytes(archive(('words', b'a' * 100_000))[:-20])
  with pytest.raises(ValueError, match='expected a complete tar archive'):
    download.extract(path, tmp_path, 1 << 20)


def test_unpacks_no_more_than_a_data_set_has(server, tmp_path):
  content = lzma.compress(bytes(1 << 24), format=lzma.FORMAT_ALONE)
  with pytest.raises(
    files.FileError, match='a.lzma: expected .* LZMA file, found more than 1,000,'
  ):
    download.fetch(serve(server, 'a.lzma', content, max_bytes=1_000_000), tmp_path)
  content = archive(('words', bytes(1 << 24)))
  with pytest.raises(
    files.FileError, match='words.tar.bz2: expected .*, found more than 1,000,000'
  ):
    download.fetch(serve(server, 'words.tar.bz2', content, max_bytes=1_000_000), tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == ['a.lzma', 'words.tar.bz2']


@pytest.mark.parametrize('name', ['a.bin', 'a.bin.part', 'a.lzma'])
def test_a_fifo_in_place_of_a_file(server, tmp_path, name):
  os.mkfifo(tmp_path / name)
  remote = serve(server, name.removesuffix('.part'), CONTENT)
  with pytest.raises(files.FileError, match=f'{name}: expected .*, found a FIFO'):
    download.fetch(remote, tmp_path)


def test_headers_that_are_none(server, tmp_path):
  server.more_headers = [('x-goog-hash', 'md5=A')]
  with pytest.raises(ConnectionError, match='could not be downloaded .*put a.bin into'):
    download.fetch(serve(server, 'a.bin', CONTENT), tmp_path)
