import collections
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tff_lowrank import client_state
from tff_lowrank.simulation import append_log
from tff_lowrank.simulation import checkpoint
from tff_lowrank.simulation import file_operations
from tff_lowrank.simulation import manifest

FLAGS = dict(method='lbgm', seed=1, rounds=10, data_dir=None, lbgm_threshold=0.2)
INITIAL = (np.zeros(3, np.float32), np.int32(-1))


def make_state(number):
  return collections.OrderedDict(
    weights=(np.full([2, 3], number, np.float32), np.zeros([0], np.float64)),
    count=np.int64(number),
    mask=[np.array([True, False]), ()],
  )


def make_memory(number):
  return (np.full(3, number, np.float32), np.int32(number))


class Run:
  """The parts of a run, whose round r sets all numbers to r."""

  def __init__(self, folder, kind='ram', flags=FLAGS, keep=2):
    self.folder = folder
    self.log = append_log.AppendLog(folder / 'log')
    self.checkpoints = checkpoint.Checkpoints(folder / 'all', flags, {'log': self.log}, keep)
    if kind == 'ram':
      self.store = client_state.MemoryStore(INITIAL)
    else:
      self.store = client_state.LmdbStore(INITIAL, folder / 'memory')

  def restore(self):
    return self.checkpoints.restore(make_state(0), self.store)

  def do(self, number):
    self.store.stage(['a', f'../{number}'], [make_memory(number)] * 2)
    self.store.commit(number)
    self.log.append(b'%d\n' % number)

  def save(self, number):
    self.checkpoints.save(number, make_state(number), self.store, {'x': np.arange(number)})

  def close(self):
    self.store.close()
    self.log.close()


@pytest.fixture
def start(tmp_path):
  """Opens a run in the test's folder again and again, as a process that starts."""
  runs = []

  def start_run(*arguments, **options):
    if runs:
      runs.pop().close()
    runs.append(Run(tmp_path, *arguments, **options))
    return runs[0]

  yield start_run
  for run in runs:
    run.close()


def assert_at(run, restored, number):
  """The run is where it was after round `number`."""
  assert restored.round_num == run.store.committed_round == number
  tf.nest.assert_same_structure(make_state(0), restored.state)
  for a, b in zip(
    tf.nest.flatten(make_state(number)), tf.nest.flatten(restored.state), strict=True
  ):
    assert np.asarray(a).dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  np.testing.assert_array_equal(restored.extras['x'], np.arange(number))
  ids = ['a', *(f'../{r}' for r in range(1, 12))]
  seen = [int(m[1]) for m in run.store.read(ids)]
  assert seen == [number, *(r if r <= number else -1 for r in range(1, 12))]
  assert run.log.path.read_text() == ''.join(f'{r}\n' for r in range(1, number + 1))


@pytest.mark.parametrize('kind', ['ram', 'disk'])
def test_goes_back_to_the_last_checkpoint(start, kind):
  run = start(kind)
  assert run.restore() is None
  for r in range(1, 8):
    run.do(r)
    if r % 2 == 0:
      run.save(r)
  assert run.checkpoints.rounds() == [4, 6]
  run = start(kind)
  assert_at(run, run.restore(), 6)
  run.do(7)
  run.save(7)
  run = start(kind)
  assert_at(run, run.restore(), 7)


@pytest.mark.parametrize('kind', ['ram', 'disk'])
def test_without_a_checkpoint_nothing_is_left(start, kind):
  run = start(kind)
  run.restore()
  run.do(1)
  run = start(kind)
  assert run.restore() is None
  assert run.store.committed_round is None and len(run.store) == 0
  assert run.log.path.read_bytes() == b''


@pytest.mark.parametrize('kind', ['ram', 'disk'])
@pytest.mark.parametrize('name', ['checkpoint.json', 'state.safetensors', 'clients', None])
@pytest.mark.parametrize('is_fifo', [False, True])
def test_a_damaged_newest_falls_back_with_a_warning(start, tmp_path, caplog, kind, name, is_fifo):
  run = start(kind)
  run.restore()
  for r in range(1, 6):
    run.do(r)
    if r in (2, 4):
      run.save(r)
  newest = tmp_path / 'all' / 'round_0000000004'
  if name is None:
    for file in newest.iterdir():
      file.unlink()
  else:
    data = (newest / name).read_bytes()
    if is_fifo:
      (newest / name).unlink()
      os.mkfifo(newest / name)
    else:
      (newest / name).write_bytes(data[: len(data) // 2])
  run = start(kind)
  assert_at(run, run.restore(), 2)
  assert 'round_0000000004 cannot be used' in caplog.text
  run.do(3)
  run.do(4)
  run.save(4)
  run = start(kind)
  assert_at(run, run.restore(), 4)


@pytest.mark.parametrize('kind', ['ram', 'disk'])
def test_a_checkpoint_under_another_round_is_not_used(start, tmp_path, caplog, kind):
  run = start(kind, keep=3)
  run.restore()
  for r in range(1, 4):
    run.do(r)
    run.save(r)
  newest = tmp_path / 'all' / 'round_0000000003'
  shutil.rmtree(newest)
  shutil.copytree(tmp_path / 'all' / 'round_0000000001', newest)
  run = start(kind, keep=3)
  assert_at(run, run.restore(), 2)
  assert 'its checkpoint.json is that of round 1' in caplog.text


@pytest.mark.parametrize('change', ['another run', 'earlier', 'none'])
def test_client_memory_on_disk_that_is_not_the_runs_is_refused(start, tmp_path, change):
  run = start('disk')
  run.restore()
  run.do(1)
  run.save(1)
  shutil.copytree(tmp_path / 'memory', tmp_path / 'copy')
  run.do(2)
  run.save(2)
  run.do(3)
  run.checkpoints.save(3, make_state(3), run.store, {'x': np.arange(3)})
  run.close()
  shutil.rmtree(tmp_path / 'memory')
  if change == 'earlier':
    (tmp_path / 'copy').rename(tmp_path / 'memory')
  if change == 'another run':
    other = client_state.LmdbStore(INITIAL, tmp_path / 'memory')
    for r in (1, 2, 3):
      other.stage(['a'], [make_memory(r)])
      other.commit(r)
      other.keep([2, 3])
    other.close()
  with pytest.raises(manifest.DamagedError, match='memory: expected .* all others are damaged'):
    start('disk').restore()


def test_bfloat16_goes_to_a_checkpoint_and_back(tmp_path):
  bfloat16 = tf.bfloat16.as_numpy_dtype
  zero = np.zeros(3, bfloat16)
  for kind in ('ram', 'disk'):

    def make_store(kind=kind):
      if kind == 'ram':
        return client_state.MemoryStore(zero)
      return client_state.LmdbStore(zero, tmp_path / 'memory')

    points = checkpoint.Checkpoints(tmp_path / kind, {}, {})
    store = make_store()
    store.stage(['a'], [zero + 1])
    store.commit(1)
    points.save(1, [zero + 2, np.float16(4)], store, {'x': zero + 3})
    store.close()
    store = make_store()
    restored = points.restore([zero, np.float16(0)], store)
    found = [*restored.state[:1], restored.extras['x'], *store.read(['a'])]
    assert [array.dtype for array in found] == [bfloat16] * 3
    assert [array.tolist() for array in found] == [[2] * 3, [3] * 3, [1] * 3]
    store.close()


def test_what_cannot_be_read_back_is_not_saved(start, monkeypatch):
  run = start()
  run.restore()
  run.do(1)
  run.save(1)
  run.do(2)
  with monkeypatch.context() as patch, pytest.raises(OSError, match='round 2 could not be written'):
    patch.delitem(checkpoint._DTYPES, 'BOOL')
    run.save(2)
  assert_at(run, run.restore(), 1)


def test_every_damaged_byte_of_a_checkpoint_is_noticed(start, tmp_path):
  run = start()
  run.restore()
  run.do(1)
  run.save(1)
  for file in sorted((tmp_path / 'all' / 'round_0000000001').iterdir()):
    data = file.read_bytes()
    for i in range(0, len(data), max(len(data) // 40, 1)):
      damaged = bytearray(data)
      damaged[i] ^= 1
      file.write_bytes(damaged)
      with pytest.raises(manifest.DamagedError, match='and all others are damaged. Delete'):
        run.restore()
    file.write_bytes(data)
  assert_at(run, run.restore(), 1)


def test_another_run_is_refused_and_named(start):
  run = start()
  run.restore()
  run.do(1)
  run.save(1)
  given = FLAGS | dict(seed=2, rounds=99, data_dir='x', new=None)
  del given['lbgm_threshold']
  with pytest.raises(manifest.MismatchError) as refused:
    start(flags=given).restore()
  assert (
    'another run: --lbgm_threshold is 0.2 there and absent here, --new is absent there and '
    'None here, --seed is 1 there and 2 here.'
  ) in str(refused.value)
  run = start(flags=FLAGS | dict(rounds=99, data_dir='x'))
  assert_at(run, run.restore(), 1)


@pytest.mark.parametrize('name, value', [('FORMAT', 3), ('version', lambda: '9.9')])
def test_another_version_is_refused(start, monkeypatch, name, value):
  run = start()
  run.restore()
  run.do(1)
  run.save(1)
  monkeypatch.setattr(checkpoint, name, value)
  with pytest.raises(manifest.MismatchError, match=f'checkpoints of {name.lower()} '):
    run.restore()


def test_another_model_is_refused(start):
  run = start()
  run.restore()
  run.do(1)
  run.save(1)
  with pytest.raises(manifest.MismatchError, match='expected a server state of'):
    run.checkpoints.restore([np.zeros(3)], run.store)


def test_nothing_is_pickled(start, tmp_path):
  run = start()
  run.restore()
  run.do(1)
  run.save(1)
  found = {p.name for p in (tmp_path / 'all' / 'round_0000000001').iterdir()}
  assert found == {'checkpoint.json', 'state.safetensors', 'clients'}
  content = json.loads((tmp_path / 'all/round_0000000001/checkpoint.json').read_text())['content']
  assert content['flags'] == FLAGS and content['round'] == 1


def failing(real, fails_at, mode):
  """`real`, but call number `fails_at` goes wrong; and a list of its calls."""
  calls = []

  def operation(*arguments):
    calls.append(arguments)
    if len(calls) - 1 == fails_at:
      if mode == 'short':
        # Half is written, then the disk is full.
        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
      if mode == 'lost':
        # The system says that all is written, but half of it is not.
        real(arguments[0], arguments[1][: len(arguments[1]) // 2])
        return len(arguments[1])
      raise OSError(28, 'No space left on device')
    return real(*arguments)

  return operation, calls


FAULTS = [
  ('write', 'error'), ('write', 'short'), ('write', 'lost'), ('fsync', 'error'),
  ('rename', 'error'), ('read_bytes', 'error'), ('open_to_read', 'error'),
]  # fmt: skip


@pytest.mark.parametrize('kind', ['ram', 'disk'])
@pytest.mark.parametrize('operation, mode', FAULTS)
def test_any_operation_of_a_checkpoint_may_fail(tmp_path, monkeypatch, kind, operation, mode):
  """Each call of each operation fails in turn; the run is then where a checkpoint has it."""
  injected = 0
  while True:
    folder = tmp_path / str(injected)
    folder.mkdir()
    run = Run(folder, kind)
    run.restore()
    run.do(1)
    run.save(1)
    run.do(2)
    broken, calls = failing(getattr(file_operations, operation), injected, mode)
    with monkeypatch.context() as patch:
      patch.setattr(file_operations, operation, broken)
      try:
        run.save(2)
        has_failed = False
      except OSError as e:
        assert 'the checkpoint of round 2 could not be written' in str(e)
        has_failed = True
    run.close()
    run = Run(folder, kind)
    restored = run.restore()
    assert has_failed == (len(calls) > injected)
    # Failing to sync the folder after renaming leaves either, whole.
    last_sync = operation == 'fsync' and injected == len(calls) - 1
    assert restored.round_num in ((1, 2) if last_sync else (1,) if has_failed else (2,))
    assert_at(run, restored, restored.round_num)
    # It can go on, also over what the failure left behind.
    for r in range(restored.round_num + 1, 4):
      run.do(r)
    run.save(3)
    assert_at(run, run.restore(), 3)
    run.close()
    if not has_failed:
      break
    injected += 1
  assert injected >= 1


def test_removing_old_checkpoints_may_fail(start, monkeypatch):
  run = start(keep=1)
  run.restore()
  run.do(1)
  run.save(1)
  run.do(2)

  def fail(path):
    raise OSError(5, 'Input/output error')

  with monkeypatch.context() as patch, pytest.raises(OSError):
    patch.setattr(file_operations, 'remove_folder', fail)
    run.save(2)
  run = start(keep=1)
  assert_at(run, run.restore(), 2)
