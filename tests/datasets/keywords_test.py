import io
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from tff_lowrank import files
from tff_lowrank.datasets import keywords


@pytest.fixture
def content(rng):
  """60 recordings of 3 keywords by 3 speakers."""
  return dict(
    x=rng.integers(0, 100, (60, 5, 4)).astype(np.uint8),
    y=np.arange(60, dtype=np.uint8) % 3,
    speaker=np.repeat(['ann', 'bob', 'eve'], 20),
  )


def load(folder, **content):
  np.savez(folder / keywords.FILE, **content)
  return keywords.load_data(str(folder))


def test_every_recording_is_in_one_of_the_sets(tmp_path, content):
  data = load(tmp_path, **content)
  assert data.num_classes == 3
  np.testing.assert_array_equal(np.bincount(data.test.y), [2, 2, 2])
  both = np.concatenate([data.train.x, data.test.x]).reshape(60, -1)
  expected = content['x'].reshape(60, -1)
  np.testing.assert_array_equal(both[np.lexsort(both.T)], expected[np.lexsort(expected.T)])
  assert data.train.x.dtype == np.float32 and data.train.y.dtype == np.int32
  again = keywords.load_data(str(tmp_path))
  np.testing.assert_array_equal(again.test.x, data.test.x)


def test_clients_are_speakers(tmp_path, content):
  content['is_test'] = np.arange(60) % 20 == 0
  data = load(tmp_path, **content)
  clients = data.by_speaker()
  assert clients.client_ids == ['speaker_ann', 'speaker_bob', 'speaker_eve']
  np.testing.assert_array_equal(clients.examples('speaker_bob').x, content['x'][21:40])
  np.testing.assert_array_equal(data.test.x, content['x'][::20])


def test_numbered_speakers_in_a_folder_of_its_name(tmp_path, content):
  (tmp_path / 'keywords').mkdir()
  load(tmp_path / 'keywords', **content | dict(speaker=np.repeat([3, 10, 2], 20)))
  clients = keywords.load_data(str(tmp_path)).by_speaker()
  assert clients.client_ids == ['speaker_10', 'speaker_2', 'speaker_3']


def test_missing_file():
  with pytest.raises(FileNotFoundError, match='Create keywords.npz .* --data_dir'):
    keywords.load_data()
  with pytest.raises(FileNotFoundError, match='/nowhere lacks keywords.npz'):
    keywords.load_data('/nowhere')


@pytest.mark.parametrize(
  'change, message',
  [
    (dict(x=np.zeros([60, 5])), r'found \[60, 5\], \[60\] and \[60\]'),
    (dict(speaker=np.arange(7)), r'\[60\] and \[7\]'),
    (dict(x=np.full([60, 5, 4], np.nan)), 'expected finite numbers in x'),
    (dict(y=np.full(60, 0.5)), 'expected whole numbers from 0 to 9999 in y, found type float64'),
    (dict(x=np.zeros([60, 5, 0])), 'none empty, found'),
    (dict(x=np.full([60, 5, 4], 1e300)), 'expected finite numbers in x, as float32'),
    (dict(y=np.arange(60) - 1), 'expected whole numbers from 0'),
    (dict(y=np.arange(60) + 2**32), 'expected whole numbers from 0'),
    (dict(y=np.full(60, 2**31 - 1)), 'expected whole numbers from 0'),
    (dict(y=np.arange(60)), 'a tenth can be set aside as the test set, found'),
    (dict(is_test=np.zeros(60)), 'expected booleans of shape'),
    (dict(is_test=np.zeros(60, np.bool_)), 'found only one of them'),
    (dict(speaker=np.array([{}] * 60)), 'expected a complete .npz file of plain arrays'),
  ],
)
def test_other_content_is_refused(tmp_path, content, change, message):
  with pytest.raises(ValueError, match=f'keywords.npz: .*{message}'):
    load(tmp_path, **content | change)


def test_damaged_files_are_refused(tmp_path, content):
  del content['speaker']
  with pytest.raises(ValueError, match='expected x, y and speaker, found x, y'):
    load(tmp_path, **content)
  path = tmp_path / keywords.FILE
  path.write_bytes(path.read_bytes()[:-30])
  with pytest.raises(ValueError, match='expected a complete .npz file'):
    keywords.load_data(str(tmp_path))


def test_real_file(shared_data, tmp_path):
  unpack = [sys.executable, str(shared_data / 'unpack.py'), str(tmp_path), 'keywords']
  subprocess.run(unpack, check=True, capture_output=True)
  data = keywords.load_data(str(tmp_path))
  assert data.num_classes == 40 and data.train.x.shape == (10_800, 49, 32)
  np.testing.assert_array_equal(np.bincount(data.test.y), [30] * 40)
  assert len(data.by_speaker().client_ids) == 30


def header(**changes):
  """Of a .npy file, and 60 numbers."""
  written = io.BytesIO()
  whole = {'descr': '<f4', 'fortran_order': False, 'shape': (60,)} | changes
  np.lib.format.write_array_header_1_0(written, whole)
  return written.getvalue() + bytes(240)


@pytest.mark.parametrize(
  'content, found',
  [
    (header(shape=(1 << 33, 1 << 10)), 'ValueError: 240 bytes of an array of shape'),
    (header(shape=(-60,)), 'ValueError: 240 bytes'),
    (header(shape=(59,)), 'ValueError: 240 bytes'),
    (header(descr='|O'), 'ValueError: Python objects'),
    (header(descr='<f9'), 'ValueError: descr is not a valid dtype'),
    (b'x' * 300, 'ValueError: the magic string is not correct'),
    (header().replace(b'NUMPY\x01', b'NUMPY\x03'), 'KeyError'),
  ],
)
def test_arrays_are_what_their_headers_say(tmp_path, content, found):
  path = tmp_path / keywords.FILE
  with zipfile.ZipFile(path, 'w') as archive:
    for name in ('x', 'y', 'speaker'):
      archive.writestr(f'{name}.npy', content)
  tracemalloc.start()
  with pytest.raises(files.FileError, match=f'expected a complete .npz file .*, found {found}'):
    keywords.load_data(str(tmp_path))
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


def test_little_that_says_that_it_is_much(tmp_path, content, monkeypatch):
  content['x'] = np.zeros([60, 1000, 50], np.uint8)
  np.savez_compressed(tmp_path / keywords.FILE, **content)
  assert (tmp_path / keywords.FILE).stat().st_size < 10_000
  assert keywords.load_data(str(tmp_path)).train.x.shape == (54, 1000, 50)
  monkeypatch.setattr(keywords, '_MAX_BYTES', 1_000_000)
  with pytest.raises(files.FileError, match='at most 1,000,000 bytes, decompressed, found 3,00'):
    keywords.load_data(str(tmp_path))


def test_orders_of_axes(tmp_path, content):
  expected = load(tmp_path, **content)
  found = load(tmp_path, **content | dict(x=np.asfortranarray(content['x'])))
  np.testing.assert_array_equal(found.train.x, expected.train.x)
