"""Posts and comments of small Stack Exchange sites by user: a substitute for Stack Overflow.

You can use any Stack Exchange sites (CC BY-SA, attribute Stack Exchange and the authors;
https://archive.org/details/stackexchange), converted to `users.json`:

  {USER: [{"k": "q" (question), "a" (answer) or "c" (comment), "d": ISO time, "t": plain text,
           and for questions "title": text, "tags": [TAG, ...]}, ...], ...}

Text is split into sentences and words as TFF describes for Stack Overflow. The newest tenth of all
items is for the test. In the rest, words and tags are counted by the number of users who have them.
"""

import collections
from collections.abc import Iterable
import json
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np

from tff_lowrank import files
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import tff_files

FILE = 'users.json'
TEST_FRACTION = 0.1

_EXPECTED = 'users and their items with k, d and t'
_MAX_BYTES = 1 << 31  # All of it is held in memory.

_SENTENCE_END = re.compile(r'(?<=[.!?])\s+|\n+')
_URL = re.compile(r'https?://\S*[^\s.,!?)]')
_WORD = re.compile(r"<URL>|[a-z0-9'-]+|[^\sa-z0-9'-]")


def _question(year: int, kind: str) -> dict[str, Any]:
  text = f'A cup of {kind} is nice. Is it? I like it.'
  return {
    'k': 'q', 'd': str(year), 't': text, 'title': 'How to brew?', 'tags': ['coffee', kind]
  }  # fmt: skip


_SYNTHETIC = {
  f'site/{kind}': [_question(year, kind) for year in range(2010, 2020)]
  for kind in ('espresso', 'filter', 'mocha')
}


class Users(NamedTuple):
  """Sentences by user, for training and test, with the vocabulary and tags of the training part.

  vocabulary, tags: the most frequent first.
  """

  train: client_files.MemoryFile
  test: client_files.MemoryFile
  vocabulary: list[str]
  tags: list[str]


def sentences(text: str) -> list[str]:
  """The sentences of a text, their words separated by spaces.

  In lower case, only ASCII characters, with URLs as `<URL>`; punctuation marks are words, except
  apostrophes and hyphens.
  """
  text = text.encode('ascii', 'ignore').decode().lower()
  cut = _SENTENCE_END.split(_URL.sub('<URL>', text))
  words = (' '.join(_WORD.findall(sentence)) for sentence in cut)
  return [sentence for sentence in words if sentence]


def _features(items: Iterable[dict[str, Any]]) -> dict[str, np.ndarray]:
  rows = []
  for item in items:
    title = ' '.join(sentences(item.get('title', '')))
    tags = '|'.join(item.get('tags', ()))
    rows += [(sentence, title, tags) for sentence in sentences(item['t'])]
  columns = zip(*rows, strict=True) if rows else ((), (), ())
  return {
    name: np.array([text.encode() for text in column], np.object_)
    for name, column in zip(('tokens', 'title', 'tags'), columns, strict=True)
  }


def _most_frequent(users: Iterable[set[str]], count: int) -> list[str]:
  """The words or tags that most users have; ties in alphabetical order."""
  counts = collections.Counter(item for items in users for item in items)
  return sorted(counts, key=lambda item: (-counts[item], item))[:count]


def _in_parts(
  users: dict[str, list[dict[str, Any]]], questions: bool
) -> tuple[client_files.MemoryFile, client_files.MemoryFile]:
  times = sorted(item['d'] for items in users.values() for item in items)
  cut = times[int((1 - TEST_FRACTION) * len(times))]
  parts: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
  for user, items in users.items():
    for part, is_test in zip(parts, (False, True), strict=True):
      chosen = [
        item
        for item in items
        if (item['d'] >= cut) == is_test and (item['k'] == 'q' or not questions)
      ]
      features = _features(chosen)
      if len(features['tokens']):
        part[user] = features
  return client_files.MemoryFile(parts[0]), client_files.MemoryFile(parts[1])


def load_users(data_dir: str | None, questions: bool = False) -> Users:
  """Reads `users.json` in `data_dir`, or in a folder `stackexchange` there.

  Args:
    data_dir: The folder.
    questions: Whether to use only questions; answers and comments have no tags.

  Raises:
    FileNotFoundError: If the file is missing.
    FileError: If it is not as the module says.
  """
  if data_dir == tff_files.SYNTHETIC:
    path, users = pathlib.Path(FILE), _SYNTHETIC
  else:
    found = tff_files.find(data_dir, 'stackexchange', FILE)
    if found is None:
      where = pathlib.Path(data_dir) if data_dir else '--data_dir, which is not given,'
      raise FileNotFoundError(
        f'stackexchange: {where} lacks {FILE}. Create it from a dump of Stack Exchange sites '
        '(https://archive.org/details/stackexchange) as tff_lowrank/datasets/stackexchange.py says.'
      )
    path, users = found, _parse(found)
  train, test = _in_parts(users, questions)
  if not train.client_ids or not test.client_ids:
    raise files.FileError(path, 'sentences to train on, and later ones to test on', 'none')
  features = [train.read(user) for user in train.client_ids]
  words = ({w for text in f['tokens'] for w in text.decode().split()} for f in features)
  tags = ({t for text in f['tags'] for t in text.decode().split('|') if t} for f in features)
  vocabulary = _most_frequent(words, posts.VOCABULARY_SIZE)
  return Users(train, test, vocabulary, _most_frequent(tags, posts.NUM_TAGS))


def _parse(path: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  with files.opening(path, _EXPECTED, _MAX_BYTES) as stream:
    users = json.load(stream)
    for user, items in users.items():
      user.encode()  # Raises if it is not text.
      for item in items:
        tags = item.get('tags', [])
        texts = (item['k'], item['d'], item['t'], item.get('title', ''), *tags)
        if not isinstance(tags, list) or not all(isinstance(text, str) for text in texts):
          raise ValueError(f'an item with values that are not text: {item!r:.100}')
        ''.join(texts).encode()
  if not any(users.values()):
    raise files.FileError(path, 'items', 'none')
  return users


def load_data(
  users: Users, to_examples: posts.NextWord | posts.Tags
) -> tuple[client_files.FileClientData, arrays.Split]:
  """The training sentences by user, and all test sentences."""
  train, test = (client_files.FileClientData(f, to_examples) for f in (users.train, users.test))
  return train, test.pooled()
