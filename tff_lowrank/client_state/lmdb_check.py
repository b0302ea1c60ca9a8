"""Checks that a file of `LmdbStore` is undamaged, without LMDB, which may crash on a damaged page.

Reads every page and checks it against the trees and the list of free pages. The format is that of
LMDB 0.9; see `MDB_page`, `MDB_node`, `MDB_db` and `MDB_meta` in
https://github.com/LMDB/lmdb/blob/LMDB_0.9.31/libraries/liblmdb/mdb.c.

Imports only the standard library, so that a separate process starts fast.
"""

import collections
from collections.abc import Callable, Iterator
import hashlib
import itertools
import json
import os
import struct
from typing import Any, NamedTuple
import zlib

FORMAT = 2
DAMAGED_STATUS = 3
CHECKSUM = struct.Struct('<I')
VERSION = struct.Struct('>Q')
KEY_BYTES = 32
ABOUT = b'about'
TABLES = (b'meta', b'records', b'index', b'superseded')

_PAGE = struct.Struct('<Q2xHHH')
_OVERFLOW_PAGES = struct.Struct('<I')
_NODE = struct.Struct('<HHHH')
_META = struct.Struct('<IIQQ48s48sQQ')
_TABLE = struct.Struct('<IHHQQQQQ')
_NUMBER = struct.Struct('<Q')
_MAGIC, _FORMAT = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META_PAGE = 1, 2, 4, 8
_INTEGER_KEYS = 8
_IN_PAGE, _ON_OWN_PAGES, _IS_TABLE = 0, 1, 2
_NO_ROOT = 2**64 - 1


class DamagedError(Exception):
  """The file is damaged; the message says where."""


def checksum(label: bytes, body: bytes | memoryview) -> bytes:
  """CRC-32 of both, as 4 bytes."""
  return CHECKSUM.pack(zlib.crc32(body, zlib.crc32(label)))


def digest_of(record: bytes, found: bytes) -> int:
  """A record's part of the digest of a round; the digest is the sum over clients mod 2^256.

  Args:
    record: The client's key and the version of its state.
    found: The checksum over both and the state.
  """
  return int.from_bytes(hashlib.sha256(record + found).digest())


def to_hex(digest: int) -> str:
  return f'{digest % (1 << 256):064x}'


class _Table(NamedTuple):
  """The description of a tree of pages."""

  pad: int
  flags: int
  depth: int
  branch_pages: int
  leaf_pages: int
  overflow_pages: int
  entries: int
  root: int


def _check(condition: bool, problem: str) -> None:
  if not condition:
    raise DamagedError(problem)


class _File:
  """The trees of a file. Visited pages are marked; a page that occurs twice is damage."""

  def __init__(self, descriptor: int):
    self._descriptor = descriptor
    self._page_bytes = 4096
    # Any page is longer than the description of the file on the first page.
    self._page_bytes = _Table._make(_TABLE.unpack(self._description(0)[4])).pad
    _check(
      256 <= self._page_bytes <= 1 << 16 and self._page_bytes.bit_count() == 1, 'page 0 is damaged'
    )
    first, second = self._description(0), self._description(1)
    *_, free, main, self._last, self.transaction = max(first, second, key=lambda meta: meta[-1])
    self.free, self.main = (_Table._make(_TABLE.unpack(table)) for table in (free, main))
    length = os.fstat(descriptor).st_size
    expected = (self._last + 1) * self._page_bytes
    _check(length >= expected, f'{length} bytes instead of {expected}')
    self._is_used = bytearray(self._last + 1)
    self._is_used[:2] = b'\1\1'

  def _read(self, offset: int, size: int) -> bytes:
    parts, rest = [], size
    while rest and (part := os.pread(self._descriptor, rest, offset + size - rest)):
      parts.append(part)
      rest -= len(part)
    _check(not rest, f'{size - rest} bytes at {offset} instead of {size}')
    return b''.join(parts)

  def _description(self, number: int) -> tuple:
    page = self._read(number * self._page_bytes, _PAGE.size + _META.size)
    found, flags, _, _ = _PAGE.unpack_from(page)
    meta = _META.unpack_from(page, _PAGE.size)
    free, main = (_Table._make(_TABLE.unpack(table)) for table in meta[4:6])
    is_right = (found, flags, *meta[:2]) == (number, _META_PAGE, _MAGIC, _FORMAT)
    is_right &= (free.flags, main.flags, main.pad) == (_INTEGER_KEYS, 0, 0)
    is_right &= number == 0 or free.pad == self._page_bytes
    # A transaction with an even (odd) number writes the even (odd) page.
    is_right &= meta[-1] == 0 or meta[-1] % 2 == number
    _check(is_right, f'page {number} is damaged')
    return meta

  def _use(self, first: int, count: int = 1) -> None:
    _check(2 <= first and first + count <= self._last + 1, f'page {first} is outside of the file')
    _check(self._is_used.find(1, first, first + count) < 0, f'page {first} is used twice')
    self._is_used[first : first + count] = b'\1' * count

  def _nodes(self, number: int, kind: int) -> list[tuple[bytes, int, int, bytes]]:
    """For each node of a page: key, flags, page number or size of the value, and the value."""
    self._use(number)
    page = self._read(number * self._page_bytes, self._page_bytes)
    problem = f'page {number} is damaged'
    found, flags, lower, upper = _PAGE.unpack_from(page)
    _check((found, flags) == (number, kind), problem)
    _check(_PAGE.size <= lower <= upper <= len(page) and lower % 2 == 0, problem)
    nodes, places = [], []
    for (start,) in struct.iter_unpack('<H', page[_PAGE.size : lower]):
      _check(upper <= start <= len(page) - _NODE.size, problem)
      low, high, node_flags, key_size = _NODE.unpack_from(page, start)
      size, key_end = low | high << 16, start + _NODE.size + key_size
      if kind == _BRANCH:
        size, node_flags, value_size = size | node_flags << 32, 0, 0
      else:
        value_size = _NUMBER.size if node_flags == _ON_OWN_PAGES else size
      value = page[key_end : key_end + value_size]
      _check(key_end + value_size <= len(page), problem)
      nodes.append((page[start + _NODE.size : key_end], node_flags, size, value))
      places.append((start, key_end + value_size + (key_end + value_size) % 2))
    ends = [upper, *(end for _, end in sorted(places))]
    _check([*(start for start, _ in sorted(places)), len(page)] == ends, problem)
    return nodes

  def _on_own_pages(self, first: int, size: int) -> tuple[bytes, int]:
    header = self._read(first * self._page_bytes, _PAGE.size)
    found, flags, _, _ = _PAGE.unpack(header)
    (count,) = _OVERFLOW_PAGES.unpack_from(header, 12)
    is_right = (found, flags) == (first, _OVERFLOW)
    is_right &= _PAGE.size + size <= count * self._page_bytes
    _check(is_right, f'page {first} is damaged')
    self._use(first, count)
    return self._read(first * self._page_bytes + _PAGE.size, size), count

  def _walk(
    self, number: int, depth: int, low: Any, high: Any, order: Callable, pages: list[int]
  ) -> Iterator[tuple[bytes, int, bytes]]:
    kind = _LEAF if depth == 1 else _BRANCH
    nodes = self._nodes(number, kind)
    _check(len(nodes) >= (1 if kind == _LEAF else 2), f'page {number} has {len(nodes)} nodes')
    pages[0 if kind == _BRANCH else 1] += 1
    # The first key of a branch is ignored: it covers all smaller keys.
    keys = [order(key) for key, *_ in (nodes if kind == _LEAF else nodes[1:])]
    bounds = [low, *keys] if kind == _BRANCH else keys
    is_sorted = all(a < b for a, b in itertools.pairwise(keys))
    is_sorted &= not keys or low is None or low <= keys[0]
    is_sorted &= not keys or high is None or keys[-1] < high
    _check(is_sorted, f'the keys of page {number} are out of order')
    for i, (key, flags, size, value) in enumerate(nodes):
      if kind == _BRANCH:
        next_bound = bounds[i + 1] if i + 1 < len(bounds) else high
        yield from self._walk(size, depth - 1, bounds[i], next_bound, order, pages)
      else:
        if flags == _ON_OWN_PAGES:
          value, count = self._on_own_pages(_NUMBER.unpack(value)[0], size)
          pages[2] += count
        yield key, flags, value

  def items(
    self, table: _Table, order: Callable = bytes, kinds: tuple[int, ...] = (_IN_PAGE, _ON_OWN_PAGES)
  ) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a tree; raises DamagedError if it is damaged."""
    pages, entries = [0, 0, 0], 0
    if table.root == _NO_ROOT:
      _check(table.depth == 0, 'an empty table has pages')
    else:
      _check(0 < table.depth < 32, f'a table of depth {table.depth}')
      for key, flags, value in self._walk(table.root, table.depth, None, None, order, pages):
        _check(flags in kinds, f'a value of kind {flags}')
        entries += 1
        yield key, value
    expected = (table.branch_pages, table.leaf_pages, table.overflow_pages, table.entries)
    _check((*pages, entries) == expected, f'a table of {pages} pages instead of {expected}')

  def tables(self) -> dict[bytes, _Table]:
    """The tables by name."""
    found = {}
    for name, value in self.items(self.main, kinds=(_IS_TABLE,)):
      _check(len(value) == _TABLE.size, f'a table of {len(value)} bytes')
      found[name] = _Table._make(_TABLE.unpack(value))
      _check((found[name].pad, found[name].flags) == (0, 0), f'table {name!r} is of another kind')
    return found

  def check_free_pages(self) -> None:
    """Raises DamagedError unless exactly the unused pages are free."""

    def order(key: bytes) -> int:
      _check(len(key) == _NUMBER.size, 'the list of free pages is damaged')
      return _NUMBER.unpack(key)[0]

    for key, value in self.items(self.free, order):
      count = _NUMBER.unpack_from(value)[0] if len(value) >= _NUMBER.size else -1
      is_right = 0 <= count < len(value) // _NUMBER.size and order(key) <= self.transaction
      _check(is_right, 'the list of free pages is damaged')
      numbers = [n for (n,) in struct.iter_unpack('<Q', value[8 : 8 + 8 * count])]
      _check(all(a > b for a, b in itertools.pairwise(numbers)), 'free pages are out of order')
      for number in numbers:
        self._use(number)
    missing = self._is_used.find(0)
    _check(missing < 0, f'page {missing} is neither used nor free')


def _about(file: _File, tables: dict[bytes, _Table]) -> dict[str, Any] | None:
  """The store's description of itself; None if it was created but never used."""
  meta = dict(file.items(tables[b'meta'])) if b'meta' in tables else {}
  if not meta and not any(table.entries for table in tables.values()):
    return None
  sealed = meta.get(ABOUT, b'')
  about = {}
  if ABOUT in meta:
    body = sealed[CHECKSUM.size :]
    _check(sealed == checksum(ABOUT, body) + body, 'its description of itself is damaged')
    about = json.loads(body)
  _check(
    about.get('format') == FORMAT and set(tables) == set(TABLES),
    f'client state of format {about.get("format", 1)} instead of {FORMAT}',
  )
  return about


def contents(descriptor: int) -> dict[str, Any]:
  """Checks the content of a file; raises DamagedError if none of it can be used.

  Returns:
    about: The store's description of itself; None if it is empty.
    damage: Round, as text -> the fault in its client state, for rounds that cannot be restored.
  """
  file = _File(descriptor)
  tables = file.tables()
  about = _about(file, tables)
  versions: dict[bytes, list[tuple[int, int | None]]] = collections.defaultdict(list)
  index = dict(file.items(tables[b'index'])) if b'index' in tables else {}
  records = file.items(tables[b'records']) if b'records' in tables else ()
  for record, value in records:
    _check(len(record) == KEY_BYTES + VERSION.size, 'a record has another key')
    found, body = value[: CHECKSUM.size], memoryview(value)[CHECKSUM.size :]
    is_whole = found == checksum(record, body)
    is_whole &= found == index.get(record[KEY_BYTES:] + record[:KEY_BYTES])
    (version,) = VERSION.unpack_from(record, KEY_BYTES)
    versions[record[:KEY_BYTES]].append((version, digest_of(record, found) if is_whole else None))
  superseded = dict(file.items(tables[b'superseded'])) if b'superseded' in tables else {}
  file.check_free_pages()
  if about is None:
    return dict(about=None, damage={})
  expected = {VERSION.pack(v) + key for key, seen in versions.items() for v, _ in seen}
  _check(index.keys() == expected, 'the index does not match the records')
  last = -1 if about['round'] is None else about['round']
  _check_superseded(superseded, versions, last)
  rounds = about['kept'] | ({} if last < 0 else {str(last): about})
  problems = ((r, _problem(versions, int(r), of)) for r, of in rounds.items())
  return dict(about=about, damage={r: problem for r, problem in problems if problem})


def _problem(
  versions: dict[bytes, list[tuple[int, int | None]]], round_num: int, of: dict[str, Any]
) -> str | None:
  """The fault in the client state of a round, which must have the digest and count in `of`."""
  seen = ([digest for v, digest in all_ if v <= round_num] for all_ in versions.values())
  visible = [digests[-1] for digests in seen if digests]
  whole = [digest for digest in visible if digest is not None]
  if len(whole) < len(visible):
    return f'damaged state of {len(visible) - len(whole)} of {len(visible)} clients'
  if (to_hex(sum(whole)), len(whole)) != (of['digest'], of['count']):
    return 'other clients, or other versions of their state'
  return None


def _check_superseded(
  superseded: dict[bytes, bytes], versions: dict[bytes, list[tuple[int, Any]]], last: int
) -> None:
  """Each version except a client's newest must be listed once, with the round that replaced it."""
  listed = {}
  for entry in superseded:
    _check(len(entry) == KEY_BYTES + 2 * VERSION.size, 'a superseded record has another key')
    after, key, before = entry[:8], entry[8:-8], entry[-8:]
    _check((key, before) not in listed, 'a superseded record is listed twice')
    listed[key, before] = VERSION.unpack(after)[0]
  for key, seen in versions.items():
    committed = [version for version, _ in seen if version <= last]
    for version, later in itertools.pairwise(committed):
      found = listed.pop((key, VERSION.pack(version)), -1)
      _check(version < found <= later, 'a superseded record is not listed')
  _check(not listed, 'a record that is not superseded is listed')


def main(path: str) -> int:
  """Prints `contents` of a file as JSON; or prints one sentence and returns DAMAGED_STATUS."""
  try:
    with open(path, 'rb') as file:
      print(json.dumps(contents(file.fileno())))
  except (DamagedError, ValueError, KeyError, TypeError, struct.error) as e:
    print(e if isinstance(e, DamagedError) else f'{type(e).__name__}: {e}')
    return DAMAGED_STATUS
  return 0
