import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_federated as tff

from tff_lowrank.datasets import shakespeare
from tff_lowrank.datasets import tff_files

EXCERPT = pathlib.Path(__file__).parent / 'testdata'  # Three roles of TFF's HDF5 files.


def test_sequences_of_a_snippet():
  snippet = b'A' * 100 + b'\xc3~'
  x, y = shakespeare.to_sequences({'snippets': [b'Oh!', snippet]})
  assert x.shape == y.shape == (3, 80) and x.dtype == np.int32
  o, h, mark, a = (shakespeare.CHARACTERS.index(c) + 1 for c in 'Oh!A')
  assert x[0, :6].tolist() == [88, o, h, mark, 89, 0] and not x[0, 5:].any()
  assert y[0, :5].tolist() == [o, h, mark, 89, 0]
  # 81 tokens a sequence: begin and 80 letters; then 20, two unknown bytes, end.
  assert x[1].tolist() == [88] + [a] * 79 and y[1].tolist() == [a] * 80
  assert x[2, :24].tolist() == [a] * 20 + [87, 87, 89, 0]
  np.testing.assert_array_equal(x[:, 1:], y[:, :-1])


def test_agrees_with_tffs_baseline():
  baseline = tff.simulation.baselines
  assert shakespeare.VOCABULARY_SIZE == baseline.shakespeare.VOCAB_LENGTH
  task = baseline.shakespeare.create_character_prediction_task(
    baseline.ClientSpec(num_epochs=1, batch_size=100, shuffle_buffer_size=1),
    use_synthetic_data=True,
  )
  train, _ = shakespeare.load_data(tff_files.SYNTHETIC)
  theirs = task.datasets.train_data.preprocess(task.datasets.train_preprocess_fn)
  assert train.client_ids == sorted(theirs.client_ids)
  for client in train.client_ids:
    (batch,) = theirs.create_tf_dataset_for_client(client)
    for mine, other in zip(train.examples(client), batch, strict=True):
      np.testing.assert_array_equal(mine, other)


def decoded(tokens):
  return ''.join(shakespeare.CHARACTERS[t - 1] for t in tokens.ravel() if 0 < t < 87)


def test_an_excerpt_of_tffs_files():
  train, test = shakespeare.load_data(str(EXCERPT))
  assert len(train.client_ids) == 3
  (banquo,) = (c for c in train.client_ids if 'BANQUO' in c)
  assert 'Thou hast it now' in decoded(train.examples(banquo).y)
  assert len(test.y) > 10


def test_real_files(shared_data, tmp_path):
  unpack = [sys.executable, str(shared_data / 'unpack.py'), str(tmp_path), 'shakespeare']
  subprocess.run(unpack, check=True, capture_output=True)
  train, test = shakespeare.load_data(str(tmp_path))
  assert len(train.client_ids) == 715
  # As many snippets begin as TFF says there are.
  x = np.concatenate([train.examples(c).x for c in train.client_ids])
  assert (x == shakespeare.BEGIN).sum() == 16_068
  assert (test.x == shakespeare.BEGIN).sum() == 2_356


@pytest.mark.parametrize('snippets', [np.int64([5]), np.float32([0.5]), np.zeros([1, 3], np.uint8),
                                      ['text']])  # fmt: skip
def test_what_is_no_text_is_refused(snippets):
  with pytest.raises(ValueError, match='snippets: expected texts as bytes, found'):
    shakespeare.to_sequences({'snippets': snippets})
