import json

import numpy as np
import pytest

from tests.datasets import tff_format
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import stackoverflow


def post(*sentences):
  count = len(sentences)
  return {
    'creation_date': np.array([b'2010-01-08 09:34:05 UTC'] * count, np.object_),
    'score': np.arange(count),
    'tags': np.array([b'tea|cup'] * count, np.object_),
    'title': np.array([b'how to'] * count, np.object_),
    'tokens': np.array([s.encode() for s in sentences], np.object_),
    'type': np.array([b'question'] * count, np.object_),
  }


@pytest.fixture
def folder(tmp_path):
  train = {'00000123': post('a cup of tea', 'is it ?'), '00000042': post('i like it')}
  test = {f'{i:08d}': post(*['it is a cup'] * 3) for i in range(5)}
  tff_format.write_sqlite(tmp_path / 'stackoverflow.sqlite', dict(train=train, test=test,
                                                                  heldout=train))  # fmt: skip
  (tmp_path / stackoverflow.WORD_COUNTS).write_text('it 9\na 7\ncup 3\ntea 1\n')
  (tmp_path / stackoverflow.TAG_COUNTS).write_text(json.dumps({'pot': 2, 'tea': 9, 'cup': 4}))
  return str(tmp_path)


def test_sentences_by_user(folder):
  words = posts.NextWord(stackoverflow.load_vocabulary(folder))
  train, test = stackoverflow.load_data(folder, words)
  assert train.client_ids == ['00000042', '00000123']
  assert train.examples('00000123').y[:, :5].tolist() == [[2, 3, 5, 4, 7], [5, 1, 5, 7, 0]]
  assert test.x.shape == (15, 20)


def test_tags_of_both_formats(folder, tmp_path):
  tags = posts.Tags(stackoverflow.load_vocabulary(folder), stackoverflow.load_tags(folder))
  train, _ = stackoverflow.load_data(folder, tags)
  x, y = train.examples('00000042')
  assert x.tolist() == [[4, 4, 0, 4, 4]] and y.tolist() == [[1, 1, 0]]
  (tmp_path / 'stackoverflow.sqlite').unlink()
  for part in ('train', 'test'):
    tff_format.write_hdf5(tmp_path / f'stackoverflow_{part}.h5', {'00000042': post('i like it')})
  again, _ = stackoverflow.load_data(folder, tags)
  np.testing.assert_array_equal(again.examples('00000042').x, x)


def test_test_sentences_are_a_sample(folder, monkeypatch):
  monkeypatch.setattr(stackoverflow, 'NUM_TEST_EXAMPLES', 7)
  monkeypatch.setattr(stackoverflow, 'MAX_EXAMPLES_PER_CLIENT', 1)
  train, test = stackoverflow.load_data(folder, posts.NextWord(['it']))
  assert len(test.y) == 7 and train.num_examples('00000123') == 1


def test_most_frequent_words_and_tags(folder, monkeypatch):
  monkeypatch.setattr(posts, 'VOCABULARY_SIZE', 2)
  monkeypatch.setattr(posts, 'NUM_TAGS', 2)
  assert stackoverflow.load_vocabulary(folder) == ['it', 'a']
  assert stackoverflow.load_tags(folder) == ['tea', 'cup']


def test_missing_and_damaged_counts(folder, tmp_path):
  with pytest.raises(FileNotFoundError, match='lacks stackoverflow.word_count .*tar.bz2'):
    stackoverflow.load_vocabulary(str(tmp_path / 'nowhere'))
  (tmp_path / stackoverflow.WORD_COUNTS).write_text('it 9\na\n')
  with pytest.raises(ValueError, match="expected a word and its count on each line, found b'a"):
    stackoverflow.load_vocabulary(folder)
  for text in ('[1]', '{"a": "b"}', '{'):
    (tmp_path / stackoverflow.TAG_COUNTS).write_text(text)
    with pytest.raises(ValueError, match='expected JSON of tags and their counts'):
      stackoverflow.load_tags(folder)
