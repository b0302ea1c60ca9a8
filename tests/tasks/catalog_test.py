import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_lowrank import learning
from tff_lowrank import tasks
from tff_lowrank.datasets import arrays
from tff_lowrank.datasets import cifar
from tff_lowrank.datasets import mnist
from tff_lowrank.models import keyed
from tff_lowrank.simulation import batches
from tff_lowrank.simulation import evaluation


def build(name='digits', **settings):
  settings = dict(partition='iid', num_clients=4, seed=1) | settings
  return tasks.build(name, **settings)


def test_real_tasks(shared_data):
  for name in ('mnist', 'fashion_mnist'):
    task = build(name, data_dir=str(shared_data), partition='shards:3', num_clients=100)
    assert sum(w.size for w in task.build_model(1).initial_weights[0]) == 431_080
    sizes = [task.train.num_examples(c) for c in task.train.client_ids]
    assert sum(sizes) == 60_000


def test_clients_of_the_data_sets_own(tmp_path, rng):
  np.savez(
    tmp_path / 'keywords.npz',
    x=rng.normal(loc=[3, -7], scale=[4, 0], size=(40, 5, 2)),
    y=np.arange(40) % 4,
    speaker=np.repeat([0, 1], [28, 12]),
  )
  task = build(
    'keywords',
    partition='natural',
    num_clients=0,
    data_dir=str(tmp_path),
    client_test_fraction=0.25,
  )
  assert task.train.client_ids == task.client_test.client_ids == ['speaker_0', 'speaker_1']
  whole = task.train.num_examples('speaker_0') + task.client_test.num_examples('speaker_0')
  assert task.client_test.num_examples('speaker_0') == round(0.25 * whole)
  assert task.keras_model_fn().output_shape == (None, 4)
  # Features have mean 0 and deviation 1 over the training set; one that is constant is 0.
  task = build('keywords', data_dir=str(tmp_path))
  assert len(task.train.client_ids) == 4
  x = np.concatenate([task.train.examples(c).x for c in task.train.client_ids])
  x = task.preprocess(dict(x=x, y=None))['x'].numpy()
  np.testing.assert_allclose(x[..., 0].mean(), 0, atol=1e-6)
  np.testing.assert_allclose(x.std((0, 1)), [1, 0], atol=1e-6)
  assert not x[..., 1].any()


def test_writers(shared_data):
  task = build('qmnist_two_fc', partition='natural', num_clients=0, data_dir=str(shared_data))
  assert len(task.train.client_ids) == 539
  assert task.keras_model_fn().count_params() == 203_530
  some, other = (
    build('qmnist_two_fc', partition='natural', num_clients=5, seed=s, data_dir=str(shared_data))
    for s in (1, 2)
  )
  some = some.train
  assert len(some.client_ids) == 5 and set(some.client_ids) < set(task.train.client_ids)
  assert set(some.client_ids) != set(other.train.client_ids)
  client = some.client_ids[0]
  np.testing.assert_array_equal(some.examples(client).x, task.train.examples(client).x)
  with pytest.raises(ValueError, match="must be `natural`, found 'iid'"):
    build('qmnist')


def test_tasks_with_other_models(monkeypatch):
  def loaded(shape):
    split = arrays.Split(np.zeros((20, *shape), np.uint8), np.arange(20, dtype=np.int32) % 10)
    return lambda *args: arrays.Arrays(split, split)

  monkeypatch.setattr(mnist, 'load_arrays', loaded((28, 28, 1)))
  monkeypatch.setattr(cifar, 'load_arrays', loaded((32, 32, 3)))
  for name, count in (
    ('mnist_two_fc', 203_530),
    ('cifar10_cnn', 657_080),
    ('cifar10', 62_006),
    ('cifar10_vgg16', 15_253_578),
    ('cifar10_vgg16_quarter', 957_210),
    ('cifar100_vgg16', 15_299_748),
  ):
    assert build(name).keras_model_fn().count_params() == count


# Those that are quick to compile.
QUICK = ('mnist_two_fc', 'qmnist_two_fc', 'emnist_two_fc', 'stackoverflow_tags',
         'stackexchange_nwp_small', 'keywords')  # fmt: skip
OTHERS = [pytest.param(n, marks=pytest.mark.slow) for n in tasks.NAMES if n not in QUICK]


@pytest.mark.parametrize('name', [*QUICK, *OTHERS])
def test_two_rounds_of_every_task(name):
  data_dir = None if name == 'digits' else tasks.SYNTHETIC
  for partition in tasks.simple_partitions(name):
    task = build(
      name, partition=partition, data_dir=data_dir, num_clients=0 if partition == 'natural' else 3
    )
  model = task.build_model(1)
  assert list(task.objective.metrics)[:2] == ['loss', 'accuracy']
  process = learning.build_fed_avg(model, tff.learning.optimizers.build_sgdm(0.01))
  evaluate = evaluation.build_evaluation(model, task.test, task.preprocess, task.eval_batch_size)
  state = process.initialize()
  cut = batches.ClientBatches(1, 4, 1, dropout_keys=keyed.is_keyed(model))
  clients = task.train.client_ids[:2]
  for number in (1, 2):
    data = [cut.dataset(task.train, c, number, task.preprocess) for c in clients]
    state = process.next(state, [()] * len(data), data).state
  found = evaluate(process.get_model_weights(state))
  assert list(found) == list(task.objective.metrics)
  assert np.isfinite(list(found.values())).all() and 0 <= found['accuracy'] <= 1


def test_bag_of_words_are_shares_of_known_words():
  task = build('stackoverflow_tags', partition='natural', num_clients=0, data_dir=tasks.SYNTHETIC)
  num_words = task.keras_model_fn().input_shape[-1]
  x = np.int32([[2, 0, 2, num_words], [num_words] * 4])
  shares = task.preprocess(dict(x=x, y=None))['x'].numpy()
  np.testing.assert_allclose(shares[0, :3], [1 / 3, 0, 2 / 3], rtol=1e-6)
  assert shares.shape == (2, num_words) and not shares[1].any()


def test_cifar100_is_cropped_and_standardized(rng):
  task = build('cifar100', data_dir=tasks.SYNTHETIC)
  x = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
  prepared = task.preprocess(dict(x=x, y=None))['x']
  inner = x[:, 4:28, 4:28].astype(np.float32)
  mean, std = (f(inner, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
  np.testing.assert_allclose(prepared, (inner - mean) / std, atol=1e-5)
  assert task.keras_model_fn().output_shape == (None, 100)


def test_untrained_loss_is_that_of_tffs_baseline():
  """On one batch without padding, where both count the same tokens."""
  task = build('stackoverflow_nwp', partition='natural', num_clients=0, data_dir=tasks.SYNTHETIC)
  keras_model = task.keras_model_fn()
  rng = np.random.default_rng(0)
  x, y = rng.integers(1, 40, (2, 3, 20)).astype(np.int32)
  logits = keras_model(x)
  expected = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, logits)
  np.testing.assert_allclose(task.objective.loss(y_true=y, y_pred=logits), expected, rtol=1e-5)
