"""Files that are read back or that users bring, whole or damaged."""

import gzip
import io
import json
import shutil
import tarfile

from hypothesis import strategies as st
import numpy as np
import pytest

from tests.fuzz import fuzzing
from tff_lowrank import client_state
from tff_lowrank.client_state import packing
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import mnist
from tff_lowrank.runs import provenance
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import checkpoint
from tff_lowrank.simulation import manifest


def idx(*shape):
  header = bytes([0, 0, 8, len(shape)]) + np.array(shape, '>u4').tobytes()
  return header + bytes(i % 10 for i in range(int(np.prod(shape, dtype=object)) % 10_000))


def zipped(data):
  return gzip.compress(data, mtime=0)


@fuzzing.AMOUNTS
def test_an_idx_file_is_an_array_or_a_value_error(examples, tmp_path):
  path = tmp_path / 'x.gz'

  def check(content):
    path.write_bytes(content)
    try:
      found = mnist.read_idx(path)
    except ValueError as e:
      assert str(path) in str(e)
      return
    assert found.dtype == np.uint8
    # The header says what there is.
    assert idx(*found.shape)[: 4 + 4 * found.ndim] + found.tobytes() == gzip.decompress(content)

  whole = idx(3, 2, 2)
  corpus = [zipped(whole), zipped(idx()), zipped(idx(*[1] * 255)), zipped(idx(*[2**16] * 4)), b'']
  corpus += [zipped(idx(0, 28, 28)), zipped(idx(2**32 - 1, 2**32 - 1, 2)), zipped(whole) * 2]
  # A deflated stream that is damaged inside.
  corpus += [zipped(whole)[:10] + bytes([b]) + zipped(whole)[11:] for b in range(0, 256, 15)]
  strategy = st.one_of(fuzzing.damaged(zipped(whole)), fuzzing.damaged(whole).map(zipped))
  fuzzing.fuzz(examples, strategy, check, corpus)


@fuzzing.AMOUNTS
def test_mnist_is_labelled_images_or_a_value_error(examples, tmp_path):
  images, labels = mnist.FILES[:2]
  whole = {name: zipped(idx(2, 28, 28) if 'images' in name else idx(2)) for name in mnist.FILES}
  for name, content in whole.items():
    (tmp_path / name).write_bytes(content)

  def check(damage):
    name, content = damage
    for other in (images, labels):
      (tmp_path / other).write_bytes(zipped(content) if other == name else whole[other])
    try:
      train, _ = mnist.load_arrays('mnist', str(tmp_path))
    except ValueError as e:
      assert str(tmp_path) in str(e)
      return
    assert train.x.shape == (len(train.y), 28, 28, 1) and len(train.y)
    assert set(train.y) <= set(range(10))

  strategy = st.one_of(
    st.tuples(st.just(images), fuzzing.damaged(idx(2, 28, 28))),
    st.tuples(st.just(labels), fuzzing.damaged(idx(2))),
  )
  corpus = [(images, idx(0, 28, 28)), (labels, idx(0)), (labels, idx(2)[:-1] + b'\x0a')]
  fuzzing.fuzz(examples, strategy, check, corpus)


BINARY = cifar.VERSIONS['cifar10'][0]


def cifar_archive(names):
  """The archive, of a record a file; also with members that have no place in it."""
  written = io.BytesIO()
  with tarfile.open(fileobj=written, mode='w') as archive:
    for name in names:
      member = tarfile.TarInfo(name)
      member.size = 3073
      archive.addfile(member, io.BytesIO(bytes(3073)))
    link = tarfile.TarInfo('link/test_batch.bin')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    archive.addfile(link)
  return written.getvalue()


@fuzzing.AMOUNTS
def test_a_cifar_archive_is_images_or_a_clear_error_and_writes_nothing(examples, tmp_path):
  folder = tmp_path / 'data'
  folder.mkdir()
  path = folder / BINARY.archive

  def check(content):
    path.write_bytes(content)
    try:
      train, test = cifar.load_arrays(str(folder))
    except (ValueError, FileNotFoundError) as e:
      assert str(folder) in str(e)
    else:
      for split in (train, test):
        assert split.x.shape == (len(split.y), 32, 32, 3) and set(split.y) <= set(range(10))
    assert [*tmp_path.iterdir()] == [folder] and [*folder.iterdir()] == [path]

  names = [f'{BINARY.folder}/{name}' for name in BINARY.files]
  whole = cifar_archive(names)
  outside = cifar_archive([f'../../{name}' for name in BINARY.files] + ['/tmp/test_batch.bin'])
  corpus = [whole, zipped(whole), zipped(outside), zipped(whole[:5000]), zipped(whole)[:200], b'']
  corpus += [zipped(whole)[:60] + b'\0' * 8 + zipped(whole)[68:]]
  strategy = st.one_of(
    fuzzing.damaged(zipped(whole)), fuzzing.damaged(whole), fuzzing.damaged(whole[:2048])
  )
  fuzzing.fuzz(examples, strategy, check, corpus)


EXAMPLE = (np.zeros([2, 3], np.float32), [np.int64(0), np.zeros([0, 4]), np.array(True)])


@fuzzing.AMOUNTS
@pytest.mark.parametrize('float16', [False, True])
def test_packed_memory_is_itself_or_a_value_error(examples, float16):
  pack = packing.Packing(EXAMPLE, float16)
  state = (np.arange(6, dtype=np.float32).reshape(2, 3), [np.int64(-5), EXAMPLE[1][1], False])
  whole = pack.pack(state, b'a')

  def check(data):
    try:
      found = pack.unpack(data, b'a')
    except ValueError as e:
      assert str(e)
      return
    assert pack.pack(found, b'a') == data

  fuzzing.fuzz(examples, fuzzing.damaged(whole), check, (whole, b'', whole[:3], whole[4:]))


JSON = st.recursive(
  st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
  lambda inner: st.one_of(
    st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
  max_leaves=8,
)
RECORD = dict(flags=dict(seed=1), status='running', started='2026', wall_seconds=1.5, resumed=['x'])


@fuzzing.AMOUNTS
def test_a_record_of_a_run_is_whole_or_none(examples, tmp_path):
  path = tmp_path / 'run.json'
  whole = json.dumps(RECORD).encode()

  def check(content):
    path.write_bytes(content)
    found = provenance.read_record(path)
    if found is not None:
      # It can be compared with the flags of a run, and gone on from.
      manifest.differing_flags(found['flags'], dict(seed=1))
      before = provenance.RunRecord(tmp_path / 'next.json', {}, [], found)
      before.update('completed')

  changed = st.builds(
    lambda name, value: json.dumps(RECORD | {name: value}).encode(),
    st.sampled_from([*RECORD]),
    JSON,
  )
  strategy = st.one_of(changed, fuzzing.damaged(whole), JSON.map(lambda j: json.dumps(j).encode()))
  corpus = [whole, b'', b'{}', b'[]', b'null', b'[' * 100_000, b'\xff', whole[:-1]]
  fuzzing.fuzz(examples, strategy, check, corpus)


FLAGS = dict(method='lbgm', seed=1, rounds=9)
STATE = (np.arange(3, dtype=np.float32), np.int64(4))


class Run:
  """A checkpoint of round 3, and one way to read it."""

  def __init__(self, folder):
    self.log = append_log.AppendLog(folder / 'log')
    self.checkpoints = checkpoint.Checkpoints(folder / 'all', FLAGS, {'log': self.log})
    self.path = folder / 'all' / 'round_0000000003'

  def save(self):
    self.log.rewind()
    self.log.append(b'three')
    store = self.store()
    store.stage(['a', '../b'], [np.float32(1), np.float32(2)])
    store.commit(3)
    self.checkpoints.save(3, STATE, store, {'x': np.arange(2)})
    return {path: path.read_bytes() for path in self.path.iterdir()}

  def store(self):
    return client_state.MemoryStore(np.float32(0))

  def is_as_saved(self):
    store = self.store()
    restored = self.checkpoints.restore((np.zeros(3, np.float32), np.int64(0)), store)
    np.testing.assert_array_equal(restored.state[0], STATE[0])
    return restored.round_num == 3 and store.read(['../b', 'a']) == [2, 1]


@fuzzing.AMOUNTS
def test_a_checkpoint_is_as_saved_or_refused(examples, tmp_path):
  run = Run(tmp_path)
  whole = run.save()
  shutil.copytree(run.path, tmp_path / 'copy')

  def check(damage):
    path, content = damage
    for other, data in whole.items():
      other.write_bytes(content if other == path else data)
    try:
      assert run.is_as_saved()
    except (manifest.DamagedError, manifest.MismatchError) as e:
      assert str(tmp_path) in str(e) and content != whole[path]

  damages = [st.tuples(st.just(path), fuzzing.damaged(data)) for path, data in whole.items()]
  sealed_path = run.path / manifest.FILE
  content = json.loads(whole[sealed_path])['content']
  # Of other formats and versions, under a right checksum.
  named = st.sampled_from(['format', 'version'])
  sealed = st.one_of(JSON, st.builds(lambda n, value: content | {n: value}, named, JSON))
  damages.append(st.tuples(st.just(sealed_path), sealed.map(manifest.seal)))
  corpus = [(path, data) for path, data in whole.items()]
  corpus += [(path, b'') for path in whole] + [(sealed_path, b'[' * 100_000)]
  corpus += [(sealed_path, manifest.seal({'format': 2}))]
  fuzzing.fuzz(examples, st.one_of(damages), check, corpus)


OPERATIONS = st.lists(
  st.one_of(
    st.tuples(st.just('append'), st.binary(max_size=9)),
    st.tuples(st.just('rewind'), st.integers(0, 9)),
    st.tuples(st.just('reopen'), st.none()),
    st.tuples(st.just('damage'), st.integers(0, 40)),
  ),
  max_size=12,
)


@fuzzing.AMOUNTS
def test_a_log_has_what_was_appended_or_says_that_it_has_not(examples, tmp_path):
  path = tmp_path / 'log'

  def check(operations):
    path.unlink(missing_ok=True)
    log, content, is_damaged = append_log.AppendLog(path), b'', False
    log.rewind()
    saved = [(b'', log.sync())]
    for kind, value in operations:
      if kind == 'append' and not is_damaged:
        log.append(value)
        content += value
        saved.append((content, log.sync()))
      elif kind == 'reopen':
        log.close()
        log = append_log.AppendLog(path)
        kind, value = 'rewind', len(saved) - 1
      elif kind == 'damage' and value < len(content):
        changed = bytearray(path.read_bytes())
        changed[value] ^= 1
        path.write_bytes(changed)
        is_damaged = path.read_bytes() != content
      if kind == 'rewind':
        wanted, position = saved[value % len(saved)]
        there = path.read_bytes()[: len(wanted)]
        assert log.holds(position) == (there == wanted)
        if there != wanted:
          with pytest.raises(ValueError, match='have changed since they were written'):
            log.rewind(position)
          break
        log.rewind(position)
        content, is_damaged = wanted, False
        saved = [s for s in saved if wanted.startswith(s[0])]
      if not is_damaged:
        assert path.read_bytes() == content
    log.close()

  fuzzing.fuzz(examples, OPERATIONS, check)
