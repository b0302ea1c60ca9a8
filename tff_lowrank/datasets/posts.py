"""Converts sentences of users' posts to examples for next-word prediction and tag prediction.

As in TFF's baseline tasks on Stack Overflow, which are those of Adaptive Federated Optimization
(Reddi et al., 2021). Features: `tokens`, the words of a sentence separated by spaces; `title` of
its post; `tags` of its post, separated by `|`; all bytes, [num_sentences].
"""

from collections.abc import Sequence

import numpy as np

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files

VOCABULARY_SIZE = 10_000
NUM_TAGS = 500
SEQUENCE_LENGTH = 20

PADDING = 0


class NextWord:
  """Converts sentences to sequences for next-word prediction.

  Token 0 is padding; a word's token is its position in the vocabulary from 1; then come
  `out_of_vocabulary`, `begin` and `end`.
  """

  def __init__(self, vocabulary: Sequence[str]):
    self._tokens = {word.encode(): i + 1 for i, word in enumerate(vocabulary)}
    self.out_of_vocabulary, self.begin, self.end = (len(vocabulary) + i for i in (1, 2, 3))
    self.num_tokens = len(vocabulary) + 4

  def __call__(self, features: client_files.Features) -> arrays.Split:
    """x, y: int32 [num_sentences, 20]; y is the word after that of x.

    The first 20 words, after `begin`; a shorter sentence is followed by `end`, and padded.
    """
    sentences = arrays.checked_texts('tokens', features['tokens'])
    tokens = np.full([len(sentences), SEQUENCE_LENGTH + 1], PADDING, np.int32)
    tokens[:, 0] = self.begin
    for row, sentence in zip(tokens, sentences, strict=True):
      words = sentence.split(b' ')[:SEQUENCE_LENGTH]
      found = [self._tokens.get(word, self.out_of_vocabulary) for word in words]
      if len(found) < SEQUENCE_LENGTH:
        found.append(self.end)
      row[1 : len(found) + 1] = found
    return arrays.Split(tokens[:, :-1], tokens[:, 1:])


class Tags:
  """Converts sentences and titles to words, for prediction of the tags of their posts."""

  def __init__(self, vocabulary: Sequence[str], tags: Sequence[str]):
    self._words = {word.encode(): i for i, word in enumerate(vocabulary)}
    self._tags = {tag.encode(): i for i, tag in enumerate(tags)}
    self.num_words, self.num_tags = len(vocabulary), len(tags)

  def __call__(self, features: client_files.Features) -> arrays.Split:
    """x: int32 [num_sentences, number of words in the longest], a word's position in the
    vocabulary, or `num_words` for other words and padding; y: float32 [num_sentences, num_tags], 1
    for the post's tags.
    """
    for name in ('tokens', 'title', 'tags'):
      arrays.checked_texts(name, features[name])
    rows = [
      [self._words.get(word, self.num_words) for word in (sentence + b' ' + title).split()]
      for sentence, title in zip(features['tokens'], features['title'], strict=True)
    ]
    x = np.full([len(rows), max(map(len, rows), default=0)], self.num_words, np.int32)
    y = np.zeros([len(rows), self.num_tags], np.float32)
    for i, (row, tags) in enumerate(zip(rows, features['tags'], strict=True)):
      x[i, : len(row)] = row
      y[i, [self._tags[tag] for tag in tags.split(b'|') if tag in self._tags]] = 1
    return arrays.Split(x, y)
