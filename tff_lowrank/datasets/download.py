"""Downloads files over HTTP: resumable, with progress and checksums; results are complete."""

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
  """A file on a server, and its result in a folder.

  url: the address. `.lzma` files are decompressed, `.tar.bz2` files are extracted.
  checksum: `md5:HEX` or `sha256:HEX` of the downloaded file. Without it, the MD5 in the response of
    Google's storage is used, if present.
  max_bytes: the limit for the decompressed or extracted data.
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
      path, f'{kind} {expected} of {url}', f'{found}. The file was deleted; try again'
    )


def _length(response: http.client.HTTPResponse, start: int) -> int | None:
  """The length of the complete file, if the server sends it."""
  length = response.headers.get('Content-Length')
  return None if length is None else start + int(length)


def _open(url: str, start: int) -> http.client.HTTPResponse:
  headers = {'Range': f'bytes={start}-'} if start else {}
  return urllib.request.urlopen(
    urllib.request.Request(url, headers=headers), timeout=_TIMEOUT_SECONDS
  )


def _receive(url: str, path: pathlib.Path) -> str | None:
  """Downloads what `path` lacks of `url`; returns the server's checksum of the file, if any."""
  start = 0
  if path.exists():
    files.check_regular(path, 'a part of a download')
    start = path.stat().st_size
  try:
    response = _open(url, start)
  except urllib.error.HTTPError as e:
    if e.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
      raise
    # Nothing is left to download, or the file on the server has changed.
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
  """Copies a stream to a file, which appears only when it is complete."""
  target.parent.mkdir(parents=True, exist_ok=True)
  new = target.with_name(f'{target.name}.new')
  try:
    with new.open('wb') as file:
      shutil.copyfileobj(source, file, _CHUNK_BYTES)
    os.replace(new, target)
  finally:
    new.unlink(missing_ok=True)


def decompress(path: pathlib.Path, target: pathlib.Path, max_bytes: int) -> None:
  """Writes the content of an LZMA file; raises FileError if it is damaged, or too long."""
  with files.opening(path, 'a complete LZMA file', max_bytes) as stream:
    _write(stream, target)


def extract(path: pathlib.Path, folder: pathlib.Path, max_bytes: int) -> None:
  """Extracts the files of a tar archive into `folder`.

  Raises FileError, before anything is written, if the archive is damaged or longer than
  `max_bytes`, or if a member is neither a file nor a folder, or is outside of `folder`.
  """
  with files.opening_tar(path, max_bytes) as archive:
    for member in archive:
      is_inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
      if not is_inside or not (member.isfile() or member.isdir()) or member.issparse():
        raise files.FileError(path, 'only regular files', repr(member.name))
  with files.opening_tar(path, max_bytes) as archive:
    for member in archive:
      if member.isfile():
        source = archive.extractfile(member)
        assert source is not None  # As it is a file.
        _write(source, folder / member.name)


def fetch(remote: RemoteFile, folder: pathlib.Path) -> pathlib.Path:
  """Downloads, checks and unpacks `remote` to `folder`, unless its result exists already.

  An interrupted download is kept as `NAME.part`, and resumed.

  Returns:
    The path of the result, which is complete.

  Raises:
    ConnectionError: If the download fails; says which file to put where instead.
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
    except (OSError, ValueError, http.client.HTTPException) as e:  # Invalid values of headers.
      raise ConnectionError(
        f'{remote.url} could not be downloaded ({e}). Try again, which resumes the download, or '
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
