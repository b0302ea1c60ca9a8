"""Shakespeare by role: next-character prediction.

The works of Shakespeare (public domain) as in LEAF (Caldas et al., 2018, arXiv 1812.01097),
distributed by TFF as `shakespeare.sqlite`
(https://storage.googleapis.com/tff-datasets-public/shakespeare.sqlite.lzma), earlier as
`shakespeare_train.h5` and `shakespeare_test.h5`: 715 roles, 16,068 training and 2,356 test
snippets. Snippets become sequences as in TFF's baseline task, which is that of Adaptive Federated
Optimization (Reddi et al., 2021).
"""

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import client_files
from tff_lowrank.datasets import tff_files

SEQUENCE_LENGTH = 80

# In the order of TFF's baseline. Token 0 is padding, character i has token i + 1.
CHARACTERS = (
  'dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#\'/37;?bfjnrvzBFJNRVZ"&*.26:\naeimquyAEIMQUY]!%)-159\r'
)
PADDING = 0
OUT_OF_VOCABULARY, BEGIN, END = (len(CHARACTERS) + i for i in (1, 2, 3))
VOCABULARY_SIZE = len(CHARACTERS) + 4

FILES = tff_files.TffFiles(
  name='shakespeare',
  sqlite='shakespeare.sqlite',
  splits={'train': 'train', 'test': 'test'},
  hdf5={'train': 'shakespeare_train.h5', 'test': 'shakespeare_test.h5'},
  features={'snippets': tf.io.FixedLenFeature((), tf.string)},
  synthetic=tff.simulation.datasets.shakespeare.get_synthetic,
)

_TOKENS = np.full(256, OUT_OF_VOCABULARY, np.int32)  # Indexed by byte.
_TOKENS[np.frombuffer(CHARACTERS.encode(), np.uint8)] = np.arange(len(CHARACTERS)) + 1


def to_sequences(features: client_files.Features) -> arrays.Split:
  """Converts snippets to sequences of tokens.

  Each snippet gets a begin and an end token, is padded, and is cut into sequences.

  Returns:
    x, y: int32 [num_sequences, 80]; y is the token after that of x.
  """
  length = SEQUENCE_LENGTH + 1
  parts = [np.zeros([0, length], np.int32)]
  for snippet in arrays.checked_texts('snippets', features['snippets']):
    tokens = np.concatenate([[BEGIN], _TOKENS[np.frombuffer(snippet, np.uint8)], [END]])
    padded = np.pad(tokens, (0, -len(tokens) % length), constant_values=PADDING)
    parts.append(padded.reshape(-1, length).astype(np.int32))
  sequences = np.concatenate(parts)
  return arrays.Split(sequences[:, :-1], sequences[:, 1:])


def load_data(data_dir: str | None) -> tuple[client_files.FileClientData, arrays.Split]:
  """The training sequences by role, read on demand, and the test sequences of all roles.

  Errors: as `TffFiles.open`.
  """
  train, test = (
    client_files.FileClientData(FILES.open(data_dir, part), to_sequences)
    for part in ('train', 'test')
  )
  return train, test.pooled()
