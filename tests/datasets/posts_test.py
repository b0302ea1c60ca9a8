import numpy as np
import pytest
import tensorflow_federated as tff

from tff_lowrank import tasks
from tff_lowrank.datasets import posts
from tff_lowrank.datasets import stackoverflow
from tff_lowrank.datasets import tff_files

SO = tff.simulation.baselines.stackoverflow
SPEC = tff.simulation.baselines.ClientSpec(num_epochs=1, batch_size=10, shuffle_buffer_size=1)


def test_next_words():
  words = posts.NextWord(['how', 'to'])
  assert (words.out_of_vocabulary, words.begin, words.end, words.num_tokens) == (3, 4, 5, 6)
  long = b' '.join([b'to'] * 19 + [b'x', b'how', b'how'])
  x, y = words({'tokens': np.array([b'how to brew', long], np.object_)})
  assert x[0].tolist() == [4, 1, 2, 3, 5] + [0] * 15
  assert y[0].tolist() == [1, 2, 3, 5] + [0] * 16
  assert x[1].tolist() == [4] + [2] * 19 and y[1].tolist() == [2] * 19 + [3]
  assert words({'tokens': []}).x.shape == (0, 20)


def test_tags():
  tags = posts.Tags(['how', 'to'], ['tea', 'milk', 'cup'])
  features = {
    'tokens': [b'how  to brew', b''],
    'title': [b'to tea', b''],
    'tags': [b'cup|tea|pot', b''],
  }
  x, y = tags(features)
  np.testing.assert_array_equal(x, [[0, 1, 2, 1, 2], [2] * 5])
  np.testing.assert_array_equal(y, [[1, 0, 1], [0, 0, 0]])
  assert y.dtype == np.float32


def batches(baseline, client):
  data = baseline.datasets.train_data.preprocess(baseline.datasets.train_preprocess_fn)
  (batch,) = data.create_tf_dataset_for_client(client)
  return batch


@pytest.mark.parametrize(
  'name, build',
  [
    ('stackoverflow_nwp', SO.create_word_prediction_task),
    ('stackoverflow_tags', SO.create_tag_prediction_task),
  ],
)
def test_agrees_with_tffs_baselines(name, build):
  baseline = build(SPEC, use_synthetic_data=True)
  task = tasks.build(name, partition='natural', num_clients=0, seed=1, data_dir=tff_files.SYNTHETIC)
  assert len(task.train.client_ids) == 3
  for client in task.train.client_ids:
    examples = task.train.examples(client)
    mine = task.preprocess(dict(x=examples.x, y=examples.y))
    theirs = batches(baseline, client)
    np.testing.assert_allclose(mine['x'], theirs[0], rtol=1e-6)
    np.testing.assert_array_equal(mine['y'], theirs[1])


def test_sizes_are_those_of_tffs_baselines():
  assert posts.VOCABULARY_SIZE == SO.DEFAULT_WORD_VOCAB_SIZE
  assert posts.NUM_TAGS == SO.DEFAULT_TAG_VOCAB_SIZE
  assert posts.SEQUENCE_LENGTH == SO.DEFAULT_SEQUENCE_LENGTH
  assert len(stackoverflow.load_tags(tff_files.SYNTHETIC)) == 20


@pytest.mark.parametrize('name', ['tokens', 'title', 'tags'])
@pytest.mark.parametrize('build', [lambda: posts.NextWord(['a']), lambda: posts.Tags(['a'], ['b'])])
def test_what_is_no_text_is_refused(name, build):
  features = dict(tokens=[b'a'], title=[b'a'], tags=[b'b'])
  features[name] = np.int64([5])
  to_examples = build()
  if name != 'tokens' and isinstance(to_examples, posts.NextWord):
    to_examples(features)  # It reads no other.
    return
  with pytest.raises(ValueError, match=f'{name}: expected texts as bytes, found'):
    to_examples(features)
