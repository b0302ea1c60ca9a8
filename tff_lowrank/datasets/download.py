"""Fetches files over HTTP: with progress, going on where it was left, checked, and whole or not."""

import base64
import dataclasses
import hashlib
import http.client
import os
import pathlib
import re
import shutil
from typing import IO
import urllib.error
import urllib.request

import tqdm

from tff_lowrank import files

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30


@dataclasses.dataclass(frozen=True)
class RemoteFile:
  """A file on a server, and what becomes of it in a folder.

  url: where it is. One that ends in `.lzma` is decompressed, one in `.tar.bz2` extracted.
  checksum: `md5:HEX` or `sha256:HEX` of what is fetched. Without it, the MD5 that Google's storage
    sends along is used, if it does.
  max_bytes: what is decompressed or extracted is refused if it is longer.
  """

  url: str
  checksum: str | None = None
  max_bytes: int = 1 << 30

  @property
  def name(self) -> str:
    return self.url.rpartition('/')[2]

  @property
  def result(self) -> str:
    """The file's name after decompression or extraction."""
    return self.name.removesuffix('.lzma').removesuffix('.tar.bz2')


def _server_checksum(headers: http.client.HTTPMessage) -> str | None:
  for header in headers.get_all('x-goog-hash', ()):
    found = re.search(r'md5=([A-Za-z0-9+/=]+)', header)
    if found:
      return f'md5:{base64.b64decode(found[1]).hex()}'
  return None


def _verify(path: pathlib.Path, checksum: str, url: str) -> None:
  """Deletes `path` and raises FileError unless it has the checksum."""
  kind, _, expected = checksum.partition(':')
  with path.open('rb') as file:
    found = hashlib.file_digest(file, kind).hexdigest()
  if found != expected:
    path.unlink()
    raise files.FileError(
      path, f'{kind} {expected} of {url}', f'{found}, so that it was deleted; try again'
    )


def _length(response: http.client.HTTPResponse, start: int) -> int | None:
  """Of the whole file, if the server says it."""
  length = response.headers.get('Content-Length')
  return None if length is None else start + int(length)


def _open(url: str, start: int) -> http.client.HTTPResponse:
  headers = {'Range': f'bytes={start}-'} if start else {}
  return urllib.request.urlopen(
    urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
  )


def _receive(url: str, path: pathlib.Path) -> str | None:
  """Fetches what `path` lacks of `url`; returns the server's checksum of the whole, if any."""
  start = 0
  if path.exists():
    files.check_regular(path, 'a part of a download')
    start = path.stat().st_size
  try:
    response = _open(url, start)
  except urllib.error.HTTPError as e:
    if e.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      raise
    # Nothing is left, or the file is another one now.
    path.unlink()
    start, response = 0, _open(url, 0)
  with response:
    if response.status != http.client.PARTIAL_CONTENT:
      start = 0
    total = _length(response, start)
    progress = tqdm.tqdm(
      total=total, initial=start, desc=path.stem, unit='B', unit_scale=True, disable=None
    )
    with progress, path.open('ab' if start else 'wb') as file:
      while chunk := response.read(_CHUNK_BYTES):
        file.write(chunk)
        progress.update(len(chunk))
    found = path.stat().st_size
    if total is not None and found != total:
      raise ConnectionError(f'the connection ended after {found} of {total} bytes')
    return _server_checksum(response.headers)


def _write(source: IO[bytes], target: pathlib.Path) -> None:
  """Copies a stream to a file that is there when it is whole."""
  target.parent.mkdir(parents=True, exist_ok=True)
  new = target.with_name(f'{target.name}.new')
  try:
    with new.open('wb') as file:
      shutil.copyfileobj(source, file, _CHUNK_BYTES)
    os.replace(new, target)
  finally:
    new.unlink(missing_ok=True)


def decompress(path: pathlib.Path, target: pathlib.Path, max_bytes: int) -> None:
  """Writes the content of an LZMA file; raises FileError if it is damaged, or longer."""
  with files.opening(path, 'a whole LZMA file', max_bytes) as stream:
    _write(stream, target)


def extract(path: pathlib.Path, folder: pathlib.Path, max_bytes: int) -> None:
  """Extracts the files of a tar archive into `folder`.

  Raises FileError, before anything is written, if the archive is damaged, longer than `max_bytes`,
  or has a member that is neither a file nor a folder, or lies outside of `folder`.
  """
  with files.opening_tar(path, max_bytes) as archive:
    for member in archive:
      is_inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
      if not is_inside or not (member.isfile() or member.isdir()) or member.issparse():
        raise files.FileError(path, 'plain files only', repr(member.name))
  with files.opening_tar(path, max_bytes) as archive:
    for member in archive:
      if member.isfile():
        source = archive.extractfile(member)
        assert source is not None  # As it is a file.
        _write(source, folder / member.name)


def fetch(remote: RemoteFile, folder: pathlib.Path) -> pathlib.Path:
  """Fetches, checks and unpacks `remote` into `folder`, unless its result is there already.

  What was fetched of an interrupted download is kept as `NAME.part`, and not fetched again.

  Returns:
    The result, which is whole.

  Raises:
    ConnectionError: If the file cannot be had; says what to put where instead.
    FileError: If the file is damaged.
  """
  folder.mkdir(parents=True, exist_ok=True)
  result, whole = folder / remote.result, folder / remote.name
  if result.exists():
    files.check_regular(result, 'a file')
    return result
  if not whole.exists():
    part = folder / f'{remote.name}.part'
    try:
      checksum = _receive(remote.url, part)
    except files.FileError:
      raise
    except (OSError, ValueError, http.client.HTTPException) as e:  # Values of headers.
      raise ConnectionError(
        f'{remote.url} could not be fetched ({e}). Try again, which goes on where this stopped, or '
        f'put {remote.result} into {folder}.'
      ) from e
    checksum = remote.checksum or checksum
    if checksum is not None:
      _verify(part, checksum, remote.url)
    os.replace(part, whole)
  if whole != result:
    if remote.name.endswith('.lzma'):
      decompress(whole, result, remote.max_bytes)
    else:
      extract(whole, folder, remote.max_bytes)
    if not result.exists():
      raise files.FileError(whole, f'{remote.result} in it', 'none')
    whole.unlink()
  return result
