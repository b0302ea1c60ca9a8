import lmdb
import numpy as np
import pytest

from tests.client_state import damages
from tff_lowrank import client_state
from tff_lowrank import files
from tff_lowrank.client_state import lmdb_check


def contents(path):
  with (path / 'data.mdb').open('rb') as file:
    return lmdb_check.contents(file.fileno())


def fill(path, size, rounds):
  """Memory of up to 300 clients, of which each round changes a fifth."""
  store = client_state.LmdbStore(np.zeros(size), path)
  rng = np.random.default_rng(0)
  for r in range(1, rounds + 1):
    ids = [f'c{i}' for i in rng.choice(300, 60, replace=False)]
    store.stage(ids, [np.full(size, float(r))] * 60)
    store.commit(r)
    if r % 3 == 0:
      store.keep([r - 3, r])
  store.stage(['c1', 'new'], [np.zeros(size)] * 2)  # A round that is not committed.
  store.close()


@pytest.mark.parametrize('size', [1, 60, 300, 2000])
@pytest.mark.parametrize('rounds', [0, 1, 2, 40])
def test_a_whole_file_is_found_whole(tmp_path, size, rounds):
  fill(tmp_path, size, rounds)
  found = contents(tmp_path)
  assert found['damage'] == {} and found['about']['round'] == (rounds or None)
  assert [*found['about']['kept']] == (['36', '39'] if rounds == 40 else [])


def test_a_damaged_record_spoils_the_rounds_that_see_it(tmp_path):
  store = client_state.LmdbStore(np.zeros(2000), tmp_path)
  for r in (1, 2):
    store.stage(['a', 'b'], [np.full(2000, float(r)), np.full(2000, 10.0 * r)])
    store.commit(r)
    store.keep([1, 2])
  store.close()
  path = tmp_path / 'data.mdb'
  path.write_bytes(path.read_bytes().replace(np.full(2000, 20.0).tobytes(), bytes(16000)))
  assert contents(tmp_path)['damage'] == {'2': 'damaged state of 1 of 2 clients'}
  store = client_state.LmdbStore(np.zeros(2000), tmp_path)
  with pytest.raises(files.FileError, match='state of client .b., found expected 16004 bytes'):
    store.read(['a', 'b'])
  with pytest.raises(files.FileError, match='found damaged state of 1 of 2 clients'):
    store.restore(2)
  store.restore(1)
  assert [state[-1] for state in store.read(['a', 'b'])] == [1, 10]
  store.close()


def test_every_page_of_trees_and_of_the_free_list_is_looked_at(tmp_path):
  fill(tmp_path, 300, 40)
  path = tmp_path / 'data.mdb'
  whole = path.read_bytes()
  pages = damages.live_pages(path)
  assert len(pages) > 250
  for page in pages:
    data = bytearray(whole)
    data[page * damages.PAGE] ^= 1  # The page's number, or that which belongs to another.
    path.write_bytes(data)
    with pytest.raises(lmdb_check.DamagedError):
      contents(tmp_path)


def test_a_page_that_is_free_and_used_is_damage(tmp_path):
  """LMDB would give the page to a new record, and never say so."""
  fill(tmp_path, 300, 40)
  path = tmp_path / 'data.mdb'
  whole = path.read_bytes()
  pages = damages.live_pages(path)
  free = next(n for n in range(len(whole) // damages.PAGE) if n not in pages)
  data = whole.replace(free.to_bytes(8, 'little'), pages[40].to_bytes(8, 'little'))
  path.write_bytes(data)
  assert data != whole
  with pytest.raises(lmdb_check.DamagedError):
    contents(tmp_path)


def test_memory_of_an_earlier_format_is_refused(tmp_path):
  with lmdb.open(str(tmp_path), max_dbs=4) as env:
    meta = env.open_db(b'meta')
    with env.begin(write=True) as txn:
      txn.put(b'round', bytes(8), db=meta)
  with pytest.raises(files.FileError, match='client state of format 1 instead of 2'):
    client_state.LmdbStore(np.zeros(3), tmp_path)
