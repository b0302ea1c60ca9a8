"""Stack Overflow: sentences of questions and answers by user.

Stack Overflow Data (CC BY-SA 3.0, attribute Stack Overflow and the authors), distributed by TFF as
`stackoverflow.sqlite`
(https://storage.googleapis.com/tff-datasets-public/stackoverflow.sqlite.lzma), earlier as
`stackoverflow_train.h5` and so on: 342,477 users with 135,818,730 training examples; 204,088 users
with 16,586,035 later test examples. The counts of words and tags are in `stackoverflow.word_count`
and `stackoverflow.tag_count`, in archives with these names and `.tar.bz2`.
"""

import json
import pathlib

import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import files
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import tff_files

# As in Adaptive Federated Optimization (Reddi et al., 2021): the number of sentences per user, and
# of test sentences.
MAX_EXAMPLES_PER_CLIENT = 1000
NUM_TEST_EXAMPLES = 10_000

WORD_COUNTS = 'stackoverflow.word_count'
TAG_COUNTS = 'stackoverflow.tag_count'

# Limit of these files; words and tags are short.
_MAX_LINE_BYTES, _MAX_TAGS_BYTES = 1 << 16, 1 << 26

FILES = tff_files.TffFiles(
  name='stackoverflow',
  sqlite='stackoverflow.sqlite',
  splits={'train': 'train', 'test': 'test'},
  hdf5={'train': 'stackoverflow_train.h5', 'test': 'stackoverflow_test.h5'},
  features={name: tf.io.FixedLenFeature((), tf.string) for name in ('tokens', 'title', 'tags')},
  synthetic=tff.simulation.datasets.stackoverflow.get_synthetic,
)


def _find_counts(data_dir: str | None, file: str) -> pathlib.Path:
  path = tff_files.find(data_dir, FILES.name, file)
  if path is None:
    archive = f'{tff_files.SOURCE}{file}.tar.bz2'
    raise tff_files.missing(data_dir, FILES.name, f'{file} (from {archive})')
  return path


def load_vocabulary(data_dir: str | None) -> list[str]:
  """The 10,000 words that most users use, the most frequent first.

  Raises FileNotFoundError or FileError, naming the file, as `TffFiles.open`.
  """
  if data_dir == tff_files.SYNTHETIC:
    return list(tff.simulation.datasets.stackoverflow.get_synthetic_word_counts())
  path = _find_counts(data_dir, WORD_COUNTS)
  expected = 'a word and its count on each line'
  vocabulary: list[str] = []
  with files.reading(path, expected), path.open('rb') as lines:
    while len(vocabulary) < posts.VOCABULARY_SIZE and (line := lines.readline(_MAX_LINE_BYTES)):
      word, *count = line.decode().split() or ['']
      if len(count) != 1 or not count[0].isdecimal():
        raise files.FileError(path, expected, repr(line[:50]))
      vocabulary.append(word)
  if not vocabulary:
    raise files.FileError(path, expected, 'no line')
  return vocabulary


def load_tags(data_dir: str | None) -> list[str]:
  """The 500 most frequent tags, the most frequent first; errors as `load_vocabulary`."""
  if data_dir == tff_files.SYNTHETIC:
    counts = tff.simulation.datasets.stackoverflow.get_synthetic_tag_counts()
  else:
    path = _find_counts(data_dir, TAG_COUNTS)
    expected = 'JSON of tags and their counts'
    with files.opening(path, expected, _MAX_TAGS_BYTES) as stream:
      counts = {tag: int(count) for tag, count in json.load(stream).items()}
      ''.join(counts).encode()  # Raises if one is not text.
    if not counts:
      raise files.FileError(path, expected, 'none')
  return sorted(counts, key=counts.__getitem__, reverse=True)[: posts.NUM_TAGS]


def load_data(
  data_dir: str | None, to_examples: posts.NextWord | posts.Tags
) -> tuple[client_files.FileClientData, arrays.Split]:
  """The training sentences by user, read on demand, and test sentences of random users.

  Errors: as `TffFiles.open`.
  """
  train = client_files.FileClientData(
    FILES.open(data_dir, 'train'), to_examples, MAX_EXAMPLES_PER_CLIENT
  )
  test = client_files.FileClientData(FILES.open(data_dir, 'test'), to_examples)
  return train, test.pooled(NUM_TEST_EXAMPLES)
