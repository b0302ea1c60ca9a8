import json
import subprocess
import sys

import pytest

from tff_lowrank.datasets import posts
from tff_lowrank.datasets import stackexchange


def test_sentences_and_words():
  text = "See https://x.org/a?b=1. It's café-like: 3.5 (or so)!\n\nYes"
  assert stackexchange.sentences(text) == [
    'see <URL> .',
    "it's caf-like : 3 . 5 ( or so ) !",
    'yes',
  ]
  assert stackexchange.sentences(' \n') == []


def write(folder, users):
  (folder / stackexchange.FILE).write_text(json.dumps(users))
  return str(folder)


def item(day, text, kind='c', **more):
  return dict(k=kind, id=day, d=f'2020-01-{day:02d}T00:00:00', t=text, **more)


@pytest.fixture
def folder(tmp_path):
  question = item(2, 'Hot tea?', 'q', title='A Cup', tags=['tea', 'cup'])
  users = {
    'site/2': [item(1, 'Tea is hot. Hot!'), question, item(10, 'Later.', 'q')],
    'site/10': [item(day, 'hot or cold') for day in range(3, 10)],
    'site/3': [],
  }
  return write(tmp_path, users)


def test_the_latest_tenth_is_for_the_test(folder):
  users = stackexchange.load_users(folder)
  assert users.train.client_ids == ['site/10', 'site/2'] and users.test.client_ids == ['site/2']
  train, test = stackexchange.load_data(users, posts.NextWord(users.vocabulary))
  assert [train.num_examples(c) for c in train.client_ids] == [7, 3] and len(test.y) == 1
  # Both users have 'hot'; the others follow by alphabet.
  assert users.vocabulary[:5] == ['hot', '!', '.', '?', 'cold']
  assert list(users.train.read('site/2')['tokens']) == [b'tea is hot .', b'hot !', b'hot tea ?']


def test_questions_have_tags(folder):
  users = stackexchange.load_users(folder, questions=True)
  assert users.train.client_ids == ['site/2'] and users.tags == ['cup', 'tea']
  features = users.train.read('site/2')
  assert (features['title'], features['tags']) == ([b'a cup'], [b'tea|cup'])


def test_real_file(shared_data, tmp_path):
  unpack = [sys.executable, str(shared_data / 'unpack.py'), str(tmp_path), 'stackexchange']
  subprocess.run(unpack, check=True, capture_output=True)
  users = stackexchange.load_users(str(tmp_path))
  assert len(users.vocabulary) == posts.VOCABULARY_SIZE and len(users.tags) == posts.NUM_TAGS
  assert users.vocabulary[0] == '.' and 2000 < len(users.train.client_ids) <= 3314


def test_missing_and_other_files(tmp_path):
  with pytest.raises(FileNotFoundError, match='--data_dir, which is not given, lacks users.json'):
    stackexchange.load_users(None)
  for users in ([], {'a': [{'k': 'q'}]}, {'a': [item(1, 3)]}, {'a': []}):
    with pytest.raises(ValueError, match='users.json: expected'):
      stackexchange.load_users(write(tmp_path, users))
