import pytest

from tests.datasets import tff_format
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import shakespeare
from tff_lowrank.datasets import tff_files

FILES = shakespeare.FILES


def test_finds_either_format_in_the_folder_or_one_of_its_name(tmp_path):
  inside = tmp_path / 'shakespeare'
  inside.mkdir()
  tff_format.write_hdf5(inside / 'shakespeare_test.h5', {'role': {'snippets': [b'Ho!']}})
  file = FILES.open(str(tmp_path), 'test')
  assert isinstance(file, client_files.Hdf5File) and file.client_ids == ['role']
  clients = {'other': {'snippets': [b'Ha!']}}
  tff_format.write_sqlite(tmp_path / 'shakespeare.sqlite', {'test': clients})
  file = FILES.open(str(tmp_path), 'test')
  assert isinstance(file, client_files.SqliteFile) and file.client_ids == ['other']


def test_missing_files_are_named_with_their_source(tmp_path):
  message = (
    r'lacks shakespeare.sqlite \(https://storage.*/shakespeare.sqlite.lzma, .*\) and '
    'shakespeare_train.h5, either .*--data_dir; .*--download=shakespeare'
  )
  with pytest.raises(FileNotFoundError, match=message):
    FILES.open(str(tmp_path), 'train')
  with pytest.raises(FileNotFoundError, match='--data_dir is not given'):
    FILES.open(None, 'train')


def test_synthetic_examples_come_with_tff():
  file = FILES.open(tff_files.SYNTHETIC, 'train')
  assert len(file.client_ids) == 3
  assert b"My name's Macbeth." in file.read('THE_TRAGEDY_OF_KING_LEAR_MACBETH')['snippets']
